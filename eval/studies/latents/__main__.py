"""What latent spaces are like: python -m eval.studies.latents normal|near|paths|changes MODEL, factors|labels CODEC"""

import sys
from functools import partial

from eval.studies import run_study
from eval.studies.latents import changes, factors, labels, model

STUDIES = {**model.STUDIES, "changes": changes.STUDY, "factors": factors.STUDY, "labels": labels.STUDY}
main = partial(run_study, "python -m eval.studies.latents", __doc__, STUDIES)  # of argv, absent for the process' own

if __name__ == "__main__":
    sys.exit(main())
