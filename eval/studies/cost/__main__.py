"""What training and drawing cost: python -m eval.studies.cost loop|rates|cache|own|speed|search|serve

On a CPU the clock of loop, rates, cache and search is the process's own, so that neighbours on the machine count for
little; the others take the wall's.
"""

import sys
from functools import partial

from eval.studies import run_study
from eval.studies.cost import drawing, own, serve, training

STUDIES = {**training.STUDIES, "own": own.STUDY, **drawing.STUDIES, "serve": serve.STUDY}
main = partial(run_study, "python -m eval.studies.cost", __doc__, STUDIES)  # of argv, absent for the process' own

if __name__ == "__main__":
    sys.exit(main())
