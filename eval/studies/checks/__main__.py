"""What a model and its judge are worth: python -m eval.studies.checks cheats|swap|familiarity|retrieval"""

import sys
from functools import partial

from eval.studies import run_study
from eval.studies.checks import cheats, familiarity, retrieval, swap

STUDIES = {"cheats": cheats.STUDY, "swap": swap.STUDY, "familiarity": familiarity.STUDY, "retrieval": retrieval.STUDY}
main = partial(run_study, "python -m eval.studies.checks", __doc__, STUDIES)  # of argv, absent for the process' own

if __name__ == "__main__":
    sys.exit(main())
