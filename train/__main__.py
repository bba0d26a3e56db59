"""python -m train FOLDER: see `train.auto`."""

import sys

from train.auto import main

if __name__ == "__main__":
    sys.exit(main())
