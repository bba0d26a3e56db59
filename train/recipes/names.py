"""Which names of pictures say what is to be seen, and how it is said in captions."""

import re
from collections.abc import Collection, Sequence

from bridge.colours import WORDS
from train.recipes.writing import LISTS

MAX_WORDS, MAX_CAPTIONS = 6, 8

KINDS = {
    "3d": "3d picture of",
    "shaded": "shaded drawing of",
    "flat": "flat drawing of",
    "outlined": "outlined drawing of",
    "icon": "icon of",
    "clip art": "clip art of",
    "glyph": "glyph of",
}
"""Kinds of picture, and how a caption begins that says so."""

NAMES_A_COLOUR = frozenset((*LISTS["COLOUR_NAMES"], *WORDS))
MEANINGLESS = frozenset(LISTS["EMPTY"] + LISTS["FORMATS"])  # A name of nothing but these words says nothing
NEVER = frozenset(LISTS["JARGON"] + LISTS["BRANDS"] + LISTS["FOREIGN"])  # A name with any of these says nothing
SHORT = frozenset(("tv", "ox", "ax", "pc", "dj", "cd"))  # Words of two letters that name a thing
CLEANING = (
    (r"&#?\w+;", "'"),
    (r"\([^)]*\)?|\[[^]]*\]?", " "),
    (r"^clip ?art by [^-]*-", " "),
    (r"\b(hotel icon|b ?(and|&|n)? ?w|colou?r(ed)?|stylized|outlined?|icons?|cartoon|clip ?art)\b", " "),
    (r"\.(svg|png|jpg)\s*$", " "),
    (r"[^\w' ]|[\d_]", " "),
)
"""What a title loses, one after the other, and what takes its place."""


def words_of(text: str) -> list[str]:
    """The words of a caption in lower case.

    >>> words_of("Jack-O’Lantern: dark skin tone")
    ['jack', 'o', 'lantern', 'dark', 'skin', 'tone']
    """
    return re.findall(r"[^\W\d_]+", text.lower())


def clean_title(title: str) -> str:
    """A drawing's title as a caption: no brackets, numbers, underscores, authors or file endings; may be empty."""
    for pattern, replacement in CLEANING:
        title = re.sub(pattern, replacement, title, flags=re.IGNORECASE)
    words = title.lower().split()
    while words and (words[-1] in LISTS["NUMBERING"] + LISTS["STOP_WORDS"] or len(words[-1]) == 1):
        words.pop()
    return " ".join(words)


def clean_name(caption: str) -> str:
    """An icon's caption without the words that only number it.

    >>> clean_name("gold medal two"), clean_name("sunny day px")
    ('gold medal', 'sunny day')
    """
    words = caption.split()
    while len(words) > 1 and words[-1] in LISTS["NUMBERING"]:
        words.pop()
    return " ".join(word for word in words if word not in {"px", "duo"})


def says_nothing(caption: str, known: Collection[str] | None = None) -> bool:
    """Whether a cleaned name is no caption: too long, abstract, jargon, "X theme", or with a word not `known`."""
    words = words_of(caption)
    content = [w for w in words if (len(w) > 2 or w in SHORT) and w not in MEANINGLESS]
    return (
        not content
        or len(words) > MAX_WORDS
        or all(w in LISTS["ABSTRACT"] or w in NAMES_A_COLOUR for w in content)
        or any(w in NEVER for w in words)
        or words[-1] in {"theme", "collection"}
        or (known is not None and not all(w in known for w in words if len(w) > 2))
    )


def with_article(name: str) -> str | None:
    """ "a NAME" or "an NAME"; None where no article is natural (plurals, materials, names of places, deeds).

    >>> with_article("umbrella"), with_article("unicorn"), with_article("scissors"), with_article("flag: Chad")
    ('an umbrella', 'a unicorn', None, None)
    """
    words = words_of(name)
    if not words or words[0] in LISTS["NO_ARTICLE"] or ":" in name or name != name.lower():
        return None
    head = words[next((i for i, w in enumerate(words) if w in {"with", "of", "in", "on", "behind"}), len(words)) - 1]
    plural = head.endswith("s") and not head.endswith(("ss", "us", "is"))
    deed = len(words) == 1 and head.endswith("ing") and head not in {"ring", "king", "building"}
    if plural or deed or head in LISTS["MASS"]:
        return None
    vowel = re.match(r"[aeiou]|hour|honest|heir|x-?ray", words[0])
    an = vowel and not re.match(r"uni|use|eu|one|ufo|uk|ukulele|ut", words[0])
    return f"{'an' if an else 'a'} {name}"


def captions_of(
    label: str,
    kind: str,
    tags: Sequence[str] = (),
    colour: str | None = None,
    synonyms: int = 0,
    *,
    turned: bool = False,
) -> list[str]:
    """Ways to ask for a picture, the label first, at most MAX_CAPTIONS.

    `kind` is one of KINDS. Tags are further words, the best first, of which the first `synonyms` may stand alone. Where
    the colour is not the drawing's own (`turned`), every caption names it, the first too.

    >>> captions_of("automobile", "flat", ["car"], "red", 1, turned=True)[:4]
    ['red automobile', 'a red automobile', 'red automobile, flat', 'red car']
    """
    plain = label.replace(": ", " with " if "skin tone" in label else " ")
    own = bool(NAMES_A_COLOUR & set(words_of(label)))
    alone = [t for t in tags[:synonyms] if not NAMES_A_COLOUR & set(words_of(t))]
    coloured = [] if colour is None or own else [f"{colour} {name}" for name in (plain, *alone[:1])]
    if turned:
        label = plain = coloured.pop(0)
        tags, alone = [t for t in tags if t not in alone and not NAMES_A_COLOUR & set(words_of(t))], []
    noun = with_article(plain)
    variants = [label, plain, noun, f"{plain}, {kind}"]
    for name in coloured:
        variants += [name, with_article(name) if with_article(name.partition(" ")[2]) else None]
    variants += [*alone[:1], f"{KINDS[kind]} {noun or plain}"]
    if tags:
        variants.append(", ".join([plain, *tags[:2]]))
    variants += alone[1:2]
    unique: dict[str, str] = {}
    for variant in filter(None, variants):
        unique.setdefault(variant.casefold(), variant if variant == label else variant.lower())
    return list(unique.values())[:MAX_CAPTIONS]


def colour_is_free(label: str) -> bool:
    """Whether what a label names may have any colour, and the label names none.

    >>> [colour_is_free(label) for label in ("sports car", "person in car", "red heart", "frog")]
    [True, False, False, False]
    """
    words = set(words_of(label))
    return not words.isdisjoint(LISTS["FREE"]) and words.isdisjoint(LISTS["FIXED"]) and words.isdisjoint(NAMES_A_COLOUR)
