"""Worker processes: one, or several under one parent."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

from docora_ops.errors import ConfigurationError, RedisError, WorkerNameTakenError
from docora_ops.queue import connect
from docora_ops.queue.connection import describe, redis_errors
from docora_ops.queue.worker import SnapshotWorker
from docora_ops.settings import Settings
from docora_ops.worker.caretaker import LinkCaretaker
from docora_ops.worker.git import require_git
from docora_ops.worker.job import use_settings


def default_name() -> str:
    """A name that no other worker has."""
    return f"{socket.gethostname()}.{os.getpid()}.{os.urandom(2).hex()}"


def check(settings: Settings) -> None:
    """Raise ConfigurationError for what every job would fail of."""
    settings.require_database_url()
    settings.require_encryption_key()
    require_git()
    base = settings.repos_base_path
    try:
        base.mkdir(parents=True, exist_ok=True)
        is_usable = os.access(base, os.W_OK | os.X_OK)
    except OSError:
        is_usable = False
    if not is_usable:
        raise ConfigurationError(
            f"REPOS_BASE_PATH {str(base)!r} can't be written to",
            hint="set it to a folder for the clones that the worker's user may write to",
        )


def serve(settings: Settings, name: str, *, burst: bool) -> None:
    """Work until told to stop or, in a burst, until the queue is empty.

    Raises WorkerNameTakenError, and RedisError also when Redis was lost on the way.
    """
    use_settings(settings)
    client = connect(settings)
    where = describe(settings)
    with redis_errors(where):
        worker = SnapshotWorker(settings, client, name, LinkCaretaker(settings, client))
        try:
            worker.work(burst=burst, logging_level=None, with_scheduler=True)
        except ValueError as error:
            raise WorkerNameTakenError(
                f"a worker named {name!r} is at work already",
                hint="give another --name; that of a killed worker is free two minutes later",
            ) from error
    if not burst and not worker.stop_was_requested:
        raise RedisError(f"Redis at {where} was lost", hint="see the log above")


def serve_with_children(count: int, run: Callable[[int], int]) -> int:
    """Have `count` children call `run` with their numbers, from 1 on, and exit with its value.

    SIGTERM and SIGINT are passed on. A child that is killed is replaced; one that ends with an
    error ends all. Returns the exit code: the first error's, or 0.
    """
    children: dict[int, int] = {}
    stopping = False
    code = 0

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal stopping
        stopping = True
        for pid in children:
            os.kill(pid, signal.SIGTERM)

    def start(index: int) -> None:
        # Held back, or a signal could come between the fork and the child's own handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        pid = os.fork()
        if pid == 0:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os._exit(run(index))
        children[pid] = index
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for index in range(1, count + 1):
            start(index)
        while children:
            pid, status = os.wait()
            index = children.pop(pid)
            exit_code = os.waitstatus_to_exitcode(status)
            if exit_code < 0 and not stopping:
                start(index)
            elif exit_code > 0 and not code:
                code = exit_code
                stop(signal.SIGTERM, None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code
