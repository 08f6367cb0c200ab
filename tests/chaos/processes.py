"""The processes of docora-ops in a round."""

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import Signals

from tests.support.docora import COMMAND
from tests.support.small_batches import SMALL_BATCHES
from tests.support.worker_processes import Running


class Process(Running):
    """A command or a worker, its output, and the signals that were sent to it."""

    def __init__(
        self,
        number: int,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        logs: Path,
        *,
        is_pooled: bool,
    ) -> None:
        self.arguments = tuple(arguments)
        self.is_pooled = is_pooled
        self.name = f"{number:03} {' '.join(arguments)}{' through the pooler' * is_pooled}"
        self.is_worker = arguments[0] == "worker"
        self.is_parent = self.is_worker and arguments[-1] != "1"
        self.began = time.monotonic()
        self.signals: set[Signals] = set()
        self.fatal: set[Signals] = set()
        """SIGKILL, and signals that came before the process could handle them."""
        self.was_killed_alone = False
        """Its children were not killed with it."""
        self._files = logs / f"{number:03}-{arguments[0]}"
        with self._files.with_suffix(".out").open("wb") as stdout:
            super().__init__(
                subprocess.Popen(
                    [*(SMALL_BATCHES if "--batch-size" in arguments else [COMMAND]), *arguments],
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
    def worker_names(self) -> set[str]:
        """Returns the names of the workers below this process, or its own."""
        name, number = self.arguments[2], int(self.arguments[-1])
        return {f"{name}-{each + 1}" for each in range(number)} if number > 1 else {name}

    @property
    def output(self) -> str:
        """Returns what it wrote to stdout."""
        return self._files.with_suffix(".out").read_text(encoding="utf-8")

    def hurt(self, number: Signals, *, alone: bool) -> None:
        """Sends a signal to the process, and to its children unless `alone`."""
        self.signals.add(number)
        if number is Signals.SIGKILL or not _handles(self.pid, Signals.SIGTERM):
            self.fatal.add(number)
        if alone:
            self.was_killed_alone |= self.is_worker and number is Signals.SIGKILL
            self.signal(number)
        else:
            self.signal_all(number)

    def end(self) -> int:
        """Waits for the end and keeps what was written to stderr; returns the exit code."""
        code = super().end()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self._files.with_suffix(".err").write_text(self.log, encoding="utf-8")
        return code


def _handles(pid: int, number: Signals) -> bool:
    """Returns whether a process catches or blocks this signal."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        masks = re.findall(r"^Sig(?:Blk|Cgt):\s*(\w+)$", status, re.MULTILINE)
        return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)
    return False
