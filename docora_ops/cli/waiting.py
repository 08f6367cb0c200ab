"""`--wait`: following what was put to work to its result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.signals import handling_signals, interrupted_code
from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from docora_ops.actions.bulk.run import Stop
    from docora_ops.actions.waiting.follow import Following
    from docora_ops.actions.waiting.job_watch import Notice
    from docora_ops.links import LinkResult
    from docora_ops.waits import BulkWait, LinkWait


@dataclass(frozen=True)
class Wait:
    """`--wait`, with the seconds of `--timeout`, if any."""

    timeout: int | None


def wait_of(*, wait: bool, timeout: int | None, dry_run: bool) -> Wait | None:
    """What the options ask for. Raises UsageError where they contradict each other."""
    if timeout is not None and not wait:
        raise UsageError(
            "--timeout says how long to wait, and nothing is to be waited for", hint="add --wait"
        )
    if wait and dry_run:
        raise UsageError(
            "--wait and --dry-run exclude each other: a dry run queues nothing",
            hint="leave out one of them",
        )
    return Wait(timeout) if wait else None


def wait_for_link(context: Context, wait: Wait, result: LinkResult, workers: int) -> LinkWait:
    """Follow one link that was put to work. Raises PostgresError."""
    from docora_ops.actions.waiting.follow import Following, wait_for_one

    ref = result.link.ref
    following = Following(context.database, context.queue, grace=context.settings.drift_grace)
    following.add(ref, result.outcome)
    following.watch.on_notice = _telling(context, ref.words)
    with _stopping_on_signals(following.stop):
        _begin(context, wait, following, workers)
        with _spinner(context):
            return wait_for_one(following, ref, wait.timeout)


def wait_for_links(context: Context, wait: Wait, following: Following, workers: int) -> BulkWait:
    """Follow many, unless told to stop before. Raises PostgresError."""
    if following.stop.requested or not following.result().total:
        return following.result()
    following.watch.on_notice = _telling(context)
    with _stopping_on_signals(following.stop):
        _begin(context, wait, following, workers)
        with _bar(context, following):
            return following.run(wait.timeout)


def codes_of(wait: BulkWait, *, interrupted: bool) -> set[ExitCode]:
    """The exit codes that fit what is known in the end."""
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


def _telling(context: Context, link: str = "") -> Callable[[Notice, str], None]:
    """Returns a function that prints notices on stderr; `link`: the only link, in words."""
    from docora_ops.actions.waiting.job_watch import Notice

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
        context.say(f"Warning: {sentence}", text, style="yellow")

    return tell


def _begin(context: Context, wait: Wait, following: Following, workers: int) -> None:
    from docora_ops.render.console import may_animate
    from docora_ops.render.tables import amount

    context.collect_garbage()
    following.watch.had_workers = workers > 0
    if not may_animate(sys.stderr):
        context.say(
            "Waiting for {}{}.",
            amount(following.result().total, "snapshot"),
            f", {wait.timeout} s at most" if wait.timeout else "",
        )
    if not workers:
        context.say("Waiting all the same: a worker may come. To start one: docora-ops worker")


@contextmanager
def _spinner(context: Context) -> Iterator[None]:
    """Something that moves, and the time, where there is a terminal."""
    from docora_ops.render.console import may_animate

    if not may_animate(sys.stderr):
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=context.err,
        transient=True,
    ) as progress:
        progress.add_task("Waiting for the snapshot", total=None)
        yield


@contextmanager
def _bar(context: Context, following: Following) -> Iterator[None]:
    """A live bar with the counts, where there is a terminal."""
    from docora_ops.render.console import may_animate

    if not may_animate(sys.stderr):
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from docora_ops.render.tables import wait_counts

    with Progress(
        BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=context.err
    ) as progress:
        so_far = following.result()
        task = progress.add_task(wait_counts(so_far), total=so_far.total)

        def step(so_far: BulkWait) -> None:
            progress.update(
                task, completed=so_far.total - so_far.running, description=wait_counts(so_far)
            )

        following.on_step = step
        yield


@contextmanager
def _stopping_on_signals(stop: Stop) -> Iterator[None]:
    """The first signal ends the wait, so that what is known can be said; a second one at once."""

    def handle() -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    with handling_signals(handle):
        yield
