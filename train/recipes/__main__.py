"""Permissively licensed captioned pictures, fetched or drawn, as datasets. RECIPE --help shows each one's options:

emoji     what up to eight artists drew for the same emoji caption
icons     icons by hundreds of artists, the name for a caption
clipart   Debian's public-domain clip art as a bare folder of captioned pictures
pictures  emoji, icons, glyphs and clip art in one dataset, of which the default model is made
shapes    drawings whose shape, colour, size, place and number are known
"""

import importlib
import sys
from collections.abc import Sequence

from train.command import Parser

RECIPES = ("emoji", "icons", "clipart", "pictures", "shapes")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser = Parser("python -m train.recipes", __doc__, "python -m train.recipes emoji --out data/emoji")
    parser.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help=", ".join(RECIPES))
    recipe = importlib.import_module(f"train.recipes.{parser.parse_args(words[:1]).recipe}")
    return int(recipe.main(words[1:]))


if __name__ == "__main__":
    sys.exit(main())
