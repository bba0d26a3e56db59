"""What trains under one budget: python -m eval.studies.compare peers|families|pairs MODEL --vae-minutes M

All see the same pairs and pictures, have the same minutes of processor time (less the VAE's where they use it), up to
three ways to sample chosen on validation, and the same judge. An interrupted study resumes: nothing is done twice.
"""

import sys
from functools import partial

from eval.studies import run_study
from eval.studies.compare import families, pairs, peers

STUDIES = {"peers": peers.STUDY, "families": families.STUDY, "pairs": pairs.STUDY, "charts": pairs.CHARTS}
main = partial(run_study, "python -m eval.studies.compare", __doc__, STUDIES)  # of argv, absent for the process' own

if __name__ == "__main__":
    sys.exit(main())
