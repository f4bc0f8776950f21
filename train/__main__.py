"""``python -m scotoma.train``: what torchrun starts on every rank."""

import os
import sys

from .cli import main

if __name__ == "__main__":
    status = main(["train", *sys.argv[1:]])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # All is saved and the group is left. What torch's threads of several processes do while
        # the interpreter is taken down ended some ranks by "terminate called without an active
        # exception", and with them a run that was complete.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
