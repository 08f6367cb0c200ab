"""docora-ops with small batches: `--batch-size N` is an option that only tests have."""

import os
import sys
from collections.abc import Sequence

from docora_ops.__main__ import main

SMALL_BATCHES = (sys.executable, "-m", "tests.support.small_batches")
"""The command of a process of its own."""


def take_batch_size(arguments: Sequence[str]) -> list[str]:
    """Applies the option, if it is given, and returns the other arguments."""
    if "--batch-size" not in arguments:
        return list(arguments)
    place = arguments.index("--batch-size")
    os.environ["DOCORA_OPS_BATCH_SIZE"] = arguments[place + 1]
    return [*arguments[:place], *arguments[place + 2 :]]


if __name__ == "__main__":
    sys.argv[1:] = take_batch_size(sys.argv[1:])
    sys.exit(main())
