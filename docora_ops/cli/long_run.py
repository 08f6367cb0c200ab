"""The course of a command that runs long: signals, a bar, a lost server, the result."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from docora_ops.cli.context import Context
from docora_ops.cli.signals import interrupted_code, stopping_on_signals
from docora_ops.cli.streams import write_at_once
from docora_ops.errors import RedisError, ServerError

_SHORT_BAR = 16
BESIDE_TEXT = _SHORT_BAR + 10
"""Columns that the bar and the time beside a description take."""

if TYPE_CHECKING:
    from docora_ops.actions.bulk.run import BulkRun


class LongRun(ABC):
    """A change of many links, from its first batch to the exit code of the command."""

    unit = ""
    next_step = "the same command finishes the rest"
    after_lost_redis = ""
    """Further advice if Redis was lost: it may have lost jobs."""

    def __init__(self, context: Context, work: BulkRun) -> None:
        self.context = context
        self._work = work
        context.collect_garbage()

    def carry_out(
        self,
        start: Callable[[], object] = lambda: None,
        cancel_at_once: Callable[[], object] = lambda: None,
    ) -> int:
        """Starts and does the work, and shows its result. Returns the exit code.

        The first signal ends the work after its current batches. A second one calls
        `cancel_at_once` and exits. If a server is lost, shows what was done by then.
        """

        def exit_at_once() -> None:
            try:
                write_at_once(f"Stopped: {self.next_step}.\n")
                cancel_at_once()
            finally:
                os._exit(interrupted_code())  # Postgres rolls back what is not committed

        try:
            with stopping_on_signals(self._work.stop, exit_at_once):
                start()
                total = self._work.result().total
                with self.progress(total):
                    self._work.run()
                # Signals are still handled here: none may cut the document in two.
                return self.finish()
        except ServerError as error:
            with suppress(RedisError):
                self._work.break_off()
            self.context.docora.database.close()
            self.show(error)
            result = self._work.result()
            stopped = f"Stopped after {result.completed} of {result.total}{self.unit}."
            lost_jobs = self.after_lost_redis if isinstance(error, RedisError) else ""
            return self.context.report(error, stopped, self.next_step + lost_jobs)

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Shows how far the work is."""
        with progress_bar(self.context, total) as self._work.on_progress:
            yield

    @abstractmethod
    def finish(self) -> int:
        """Shows the result. Returns the exit code."""

    @abstractmethod
    def show(self, error: ServerError | None = None) -> None:
        """Shows what was done until now, and in JSON the error that has ended it."""


@contextmanager
def progress_bar(
    context: Context, total: int | None = None, description: str = ""
) -> Iterator[Callable[..., None]]:
    """Shows a bar on stderr if that is a terminal. Yields a function that moves it.

    The function takes the number of links done, the new description if the bar has one, and the
    number of all links if that has changed.
    """
    from docora_ops.render.console import may_animate

    if not may_animate(sys.stderr):
        yield lambda *_: None
        return
    from rich import progress as rich
    from rich.table import Column
    from rich.text import Text

    class Rate(rich.ProgressColumn):
        def render(self, task: rich.Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")

    columns: tuple[rich.ProgressColumn, ...]
    if description:
        text = rich.TextColumn("{task.description}", table_column=Column(ratio=1))
        columns = (rich.BarColumn(_SHORT_BAR), text, rich.TimeElapsedColumn())
    else:
        columns = (rich.BarColumn(), rich.MofNCompleteColumn(), Rate(), rich.TimeRemainingColumn())
    with rich.Progress(*columns, console=context.err, expand=bool(description)) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done, text=None, total=None: progress.update(
            task, completed=done, description=text, total=total
        )
