"""Entry point of the `docora-ops` command."""

import ctypes
import gc
import resource
import signal
import sys

_PR_SET_DUMPABLE = 4


def main() -> int:
    """Runs the command line. Returns the exit code."""
    # Garbage collection would take a fifth of the time of a short command, and find almost nothing.
    gc.set_threshold(200_000)
    # Blocked until the handlers that report an interrupt are installed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    # Keeps passwords and keys out of core dumps. prctl covers handlers that ignore the limit, such
    # as systemd-coredump. The limit covers git: the effect of prctl ends with exec.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    from docora_ops.cli.app import run

    code = run(sys.argv[1:])
    # Dataclasses are made by `exec` of a string. If a KeyboardInterrupt is raised in such a call,
    # `python -m` exits with 130, even if the interrupt was caught. Another `exec` prevents this.
    exec("")  # noqa: S102
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
