"""`--wait`: follows queued links until their snapshots have succeeded or failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from docora_ops.actions.waiting.follow import Following
from docora_ops.actions.waiting.job_watch import Notice
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.long_run import progress_bar
from docora_ops.cli.signals import interrupt, interrupted_code, stopping_on_signals
from docora_ops.render.cells import amount
from docora_ops.render.console import may_animate
from docora_ops.render.waiting import bulk_counts
from docora_ops.waits import BulkWait


@contextmanager
def waiting(context: Context, following: Following, workers: int, link: str = "") -> Iterator[None]:
    """Shows how far the wait is. The first signal ends it, a second one ends the command.

    `link` names the link if there is only one.
    """
    context.collect_garbage()
    following.watch.on_notice = _telling(context, link)
    following.watch.had_workers = workers > 0
    so_far = following.result()
    with stopping_on_signals(following.stop, interrupt, announced=False):
        if not may_animate(sys.stderr):
            at_most = f", {context.timeout} s at most" if context.timeout else ""
            context.say("Waiting for {}{}.", amount(so_far.total, "snapshot"), at_most)
        if not workers:
            context.say("Waiting all the same: a worker may come. To start one: docora-ops worker")
        if link:
            with progress_bar(context, None, "Waiting for the snapshot"):
                yield
            return
        with progress_bar(context, so_far.total, bulk_counts(so_far)) as move:
            following.on_step = lambda step: move(step.total - step.running, bulk_counts(step))
            yield


def codes_of(wait: BulkWait, *, interrupted: bool) -> set[ExitCode]:
    """Returns every exit code that fits the results of the wait."""
    codes = {ExitCode.OK}
    if wait.failed:
        codes.add(ExitCode.SNAPSHOT_FAILED)
    if wait.gone:
        codes.add(ExitCode.PROBLEMS)
    if wait.only_lost_left and not interrupted:
        codes.add(ExitCode.PROBLEMS)
    elif wait.running:
        codes.add(interrupted_code() if interrupted else ExitCode.TIMED_OUT)
    return codes


def _telling(context: Context, link: str) -> Callable[[Notice, str], None]:
    """Returns a function that prints notices on stderr."""

    def tell(notice: Notice, text: str) -> None:
        match notice:
            case Notice.LOST if link:
                sentence = "the link has no live job; to queue it again: docora-ops repair {}"
                text = link
            case Notice.LOST:
                sentence = "no live job for {} of the links; to queue them again: docora-ops repair"
            case Notice.NO_WORKER:
                sentence = "no worker listens on the queue {} any more: docora-ops worker"
                text = context.settings.queue_name
            case Notice.SUSPENDED:
                sentence = "the workers are told to take no jobs: rq resume"
            case Notice.REDIS_AWAY:
                sentence = "{}; the wait goes on, since the results are in Postgres"
            case Notice.REDIS_BACK:
                context.say("Redis answers again.")
                return
        context.warn(f"Warning: {sentence}", text)

    return tell
