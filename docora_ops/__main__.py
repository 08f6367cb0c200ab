"""Entry point of the `docora-ops` command."""

from __future__ import annotations

import gc
import signal
import sys


def main() -> int:
    """Runs the command line. Returns the exit code."""
    # Nearly all objects of the imports stay: collecting garbage takes a fifth of a short command.
    # A command that may run long turns the collector on again.
    gc.disable()
    # Blocked until the handlers that report an interrupt are installed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    from docora_ops.cli.app import run

    code = run(sys.argv[1:])
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
