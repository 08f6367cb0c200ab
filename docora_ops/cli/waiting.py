"""`--wait`: follows queued links until their snapshots have succeeded or failed."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from shlex import quote

from docora_ops.actions.waiting.follow import Following
from docora_ops.actions.waiting.job_watch import Notice
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.long_run import BESIDE_TEXT, progress_bar
from docora_ops.cli.signals import interrupt, interrupted_code, stopping_on_signals
from docora_ops.errors import RedisError, ServerError
from docora_ops.render.bulk_view import wait_progress
from docora_ops.render.console import may_animate
from docora_ops.text import amount
from docora_ops.waits import BulkWait

_BLANK = "\x1f"  # stands for a blank within a part
_LEAST_WIDTH = 20
_SAY_EACH = 60  # seconds, where no bar can move: silence looks like a hang


@contextmanager
def waiting(
    context: Context,
    following: Following,
    workers: int,
    what: str = "",
    *,
    link: str = "",
    left: Callable[[], int] = lambda: 0,
) -> Iterator[None]:
    """Shows how far the wait is. The first signal ends it, a second one ends the command.

    Without `what`, waits for the links that are followed by now. `link` names the link if there is
    only one. `left` counts the links that are not queued yet.
    """
    context.collect_garbage()
    what = what or amount(following.result().total, "snapshot")
    with (
        stopping_on_signals(following.stop, interrupt, announced=False),
        showing_wait(context, following, workers, what, link=link, left=left),
    ):
        yield


@contextmanager
def showing_wait(
    context: Context,
    following: Following,
    workers: int,
    what: str,
    *,
    link: str = "",
    left: Callable[[], int] = lambda: 0,
    taken_over: Callable[[], int] = lambda: 0,
) -> Iterator[None]:
    """Says that it waits for `what`, and shows how many links have results.

    `taken_over` counts the links that others have queued first.
    """
    queue = following.queue
    following.watch.on_notice = lambda notice, text: _tell(context, link, notice, text)
    following.watch.had_workers = workers > 0
    at_most = f", {context.timeout} s at most" if context.timeout else ""
    context.say(f"Waiting for {what}{at_most}.")
    if not workers and queue.choice.is_clear:
        start = context.advice.to_start_workers
        context.say(f"Waiting all the same: a worker may come. To start one: {start}")
    so_far, is_animated = following.result(), may_animate(sys.stderr)
    total = so_far.total + left()
    first = _wrapped(wait_progress(so_far, left(), taken_over()), context) or "looking"
    with progress_bar(context, total, first) as move:
        said_at = time.monotonic()

        def show(step: BulkWait) -> None:
            nonlocal said_at
            parts = wait_progress(step, left(), taken_over())
            move(step.total - step.unfinished, _wrapped(parts, context), step.total + left())
            if not is_animated and time.monotonic() - said_at >= _SAY_EACH:
                said_at = time.monotonic()
                context.say(f"{', '.join(parts)}.")

        following.on_step = show
        yield


def _wrapped(parts: Sequence[str], context: Context) -> str:
    """Breaks the text beside a bar between its parts, not within one."""
    text = ", ".join(part.replace(" ", _BLANK) for part in parts)
    width = max(context.err.width - BESIDE_TEXT, _LEAST_WIDTH)
    return textwrap.fill(text, width, break_on_hyphens=False).replace(_BLANK, " ")


def _tell(context: Context, link: str, notice: Notice, text: str) -> None:
    advice = context.advice
    match notice:
        case Notice.LOST:
            sentence = f"no live job for {text} of the links. {_queue_again(link)}"
        case Notice.NO_WORKER:
            name = context.settings.queue_name
            sentence = f"no worker listens on the queue {name} any more"
            if context.queue.choice.is_clear:
                sentence += f": {advice.to_start_workers}"
        case Notice.SUSPENDED:
            sentence = f"{text}. To go on: {advice.to_resume}"
        case Notice.REDIS_AWAY:
            sentence = f"{text}; the wait goes on, since the results are in Postgres"
        case Notice.REDIS_BACK | Notice.WORKER_BACK | Notice.RESUMED:
            context.say(_OVER[notice])
            return
    context.warn(f"Warning: {sentence}")


_OVER = {
    Notice.REDIS_BACK: "Redis answers again.",
    Notice.WORKER_BACK: "A worker listens again.",
    Notice.RESUMED: "The workers take jobs again.",
}


def end_wait(
    context: Context,
    wait: BulkWait,
    link: str = "",
    operation_id: str | None = None,
    *,
    interrupted: bool,
) -> set[ExitCode]:
    """Says which results are missing. Returns every exit code that fits the wait.

    `link` or `operation_id`: what the command waits for.
    """
    codes = {ExitCode.OK}
    if wait.failed:
        codes.add(ExitCode.SNAPSHOT_FAILED)
    if wait.gone:
        codes.add(ExitCode.PROBLEMS)
    if wait.only_lost_left and not interrupted:
        codes.add(ExitCode.PROBLEMS)
        context.warn(f"No live job for {amount(wait.unfinished, 'link')}. {_queue_again(link)}")
    elif wait.unfinished:
        codes.add(interrupted_code() if interrupted else ExitCode.TIMED_OUT)
        end = "No longer waiting" if interrupted else "Time ran out"
        left = amount(wait.unfinished, "result")
        again = f"docora-ops wait {link or quote(operation_id or '')}"
        # Beside Docora's own workers, a link may wait for the scheduler without a job.
        queue = context.queue
        is_known = queue.choice.is_clear and not queue.is_docoras
        jobs = "The jobs go on; to wait for them" if is_known else "To go on waiting"
        context.warn(f"{end}; {left} still to come. {jobs}: {again}")
    return codes


def keep_results(context: Context, record: Callable[[], object], lost: ServerError | None) -> None:
    """Records the results with the operation, or says why they are not. `lost`: ended the wait."""
    try:
        record()
    except RedisError as error:
        if not isinstance(lost, RedisError):
            context.warn(f"Warning: the results are not kept with the operation: {error.message}")


def _queue_again(link: str) -> str:
    return f"To queue {'it' if link else 'them'} again: docora-ops repair {link}".rstrip()
