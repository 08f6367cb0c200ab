"""`schedule --repeat`: repeats the passes of `schedule`."""

import gc
import time
from collections.abc import Generator
from contextlib import closing

from docora_ops.actions.bulk import BulkStep
from docora_ops.actions.docora import Docora
from docora_ops.actions.many_links import schedule
from docora_ops.errors import PoolingError, PostgresDeniedError, RedisDeniedError, ServerError

_WRONG_SETTINGS = (PostgresDeniedError, RedisDeniedError, PoolingError)
"""Errors that do not go away by themselves."""


def repeat_schedule(
    docora: Docora, *, reason: str | None = None
) -> Generator[Generator[BulkStep] | ServerError]:
    """Yields a generator of steps for each pass of `schedule`, every `SCAN_INTERVAL_MS`.

    Exhaust the steps of a pass before asking for the next pass. If a server fails before the first
    change of a pass, yields the error instead. Sleeps and reconnects between the passes.

    Raises the errors of `schedule`. Of these, a ServerError is raised only in the first pass,
    and only if it does not go away by itself.

    reason: for the audit entries.
    """
    is_first = True
    while True:
        steps = schedule(docora, reason=reason)
        try:
            step = next(steps)
            rest = steps if step.result.total else (ended for ended in [*steps])
        except ServerError as error:
            if is_first and isinstance(error, _WRONG_SETTINGS):
                raise
            yield error
        else:
            yield _all_steps(step, rest)
        is_first = False
        docora.renew()
        # The Redis client leaves 64 KB in so few reference cycles that Python would collect them
        # only after 50,000 passes.
        gc.collect()
        time.sleep(docora.settings.scan_interval_ms / 1000)


def _all_steps(first: BulkStep, rest: Generator[BulkStep]) -> Generator[BulkStep]:
    with closing(rest):
        yield first
        yield from rest
