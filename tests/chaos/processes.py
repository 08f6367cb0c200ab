"""The processes of docora-ops that a round starts and hurts."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import Signals

from tests.support.docora import COMMAND
from tests.support.worker_processes import Running


class Process(Running):
    """The installed command, all it has said, and what was done to it.

    `is_pooled`: it reaches Postgres through PgBouncer.
    """

    def __init__(
        self,
        number: int,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        logs: Path,
        *,
        is_pooled: bool = False,
    ) -> None:
        self.arguments = tuple(arguments)
        self.is_pooled = is_pooled
        self.name = f"{number:03} {' '.join(arguments)}{' through the pooler' * is_pooled}"
        self.is_worker = arguments[0] == "worker"
        self.began = time.monotonic()
        self.signals: set[Signals] = set()
        """Signals that were sent to it."""
        self.fatal: set[Signals] = set()
        """SIGKILL, and those that came while Python was starting: they may have ended it."""
        self._files = logs / f"{number:03}-{arguments[0]}"
        with self._files.with_suffix(".out").open("wb") as stdout:
            super().__init__(
                subprocess.Popen(
                    [str(COMMAND), *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    start_new_session=True,
                )
            )

    @property
    def is_parent(self) -> bool:
        """Whether it has several workers for children."""
        return self.is_worker and self.arguments[-1] != "1"

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """What it has written to stdout."""
        return self._files.with_suffix(".out").read_text(encoding="utf-8")

    def hurt(self, number: Signals, *, all_of_it: bool = True) -> None:
        """A signal to it, and to all its children or not."""
        self.signals.add(number)
        if number is Signals.SIGKILL or not _handles(self.pid, Signals.SIGTERM):
            self.fatal.add(number)
        if all_of_it:
            self.signal_all(number)
        else:
            self.signal(number)

    def end(self) -> int:
        """As it does; what it has said on stderr lies beside its stdout then."""
        code = super().end()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self._files.with_suffix(".err").write_text(self.log, encoding="utf-8")
        return code


def _handles(pid: int, number: Signals) -> bool:
    """Returns whether a process catches this signal, or holds it back until it can."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        masks = re.findall(r"^Sig(?:Blk|Cgt):\s*(\w+)$", status, re.MULTILINE)
        return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)
    return False
