"""``python -m scotoma.train``: what torchrun starts on every rank."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
