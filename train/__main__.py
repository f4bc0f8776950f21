"""``python -m scotoma.train``: what torchrun starts on every rank."""

import sys

from .cli import main
from .distributed import end

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    end(main())
