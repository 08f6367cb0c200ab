"""Entry point of the `docora-ops` command."""

from __future__ import annotations

import gc
import signal
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    # Nearly all that the imports create stays: collecting among it costs a fifth of a short run.
    # A command that may run long turns the collector on again.
    gc.disable()
    # Held back until there is somebody to say that it was interrupted.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    from docora_ops.cli.app import run

    code = run(sys.argv[1:])
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
