"""`schedule --repeat`: one pass of `schedule` after the other."""

import gc
import time
from collections.abc import Generator
from contextlib import closing

from docora_ops.actions.bulk import BulkStep
from docora_ops.actions.docora import Docora
from docora_ops.actions.many_links import schedule
from docora_ops.errors import PoolingError, PostgresDeniedError, RedisDeniedError, ServerError

_WRONG_SETTINGS = (PostgresDeniedError, RedisDeniedError, PoolingError)
"""Errors that time does not mend."""


def repeat_schedule(
    docora: Docora, *, reason: str | None = None
) -> Generator[Generator[BulkStep] | ServerError]:
    """Yields the steps of one pass of `schedule` after the other, every `SCAN_INTERVAL_MS`.

    Iterate over the steps of a pass before you ask for the next one. If a server fails before the
    first change of a pass, yields the error instead. Sleeps between the passes, and reconnects.

    reason: for the audit entries.

    Raises the errors of `schedule`; of ServerError only those in the first pass that time does not
    mend.
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
        # The client of Redis leaves 64 KB in cycles. With so few of them, it would take 50,000
        # passes until Python looks for garbage.
        gc.collect()
        time.sleep(docora.settings.scan_interval_ms / 1000)


def _all_steps(first: BulkStep, rest: Generator[BulkStep]) -> Generator[BulkStep]:
    with closing(rest):
        yield first
        yield from rest
