"""``python -m scotoma.bench.aot``: the same as ``scotoma bench aot``."""

import sys

from ...train.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "aot", *sys.argv[1:]]))
