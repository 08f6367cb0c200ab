"""Runs worker processes: one, or several under one parent."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Thread
from types import FrameType
from typing import Any, NoReturn

from docora_ops.database.session import require_session
from docora_ops.errors import ConfigurationError, ServerError
from docora_ops.interrupts import ENDING, held_back
from docora_ops.queue import connect
from docora_ops.queue.redis_client import redis_errors
from docora_ops.settings import Settings
from docora_ops.worker import certificates
from docora_ops.worker.git import require_git
from docora_ops.worker.log import log
from docora_ops.worker.outages import LastingWorker
from docora_ops.worker.snapshot_job import use_settings

_PAUSE = 1.0
"""Seconds before a killed child is replaced."""

Handlers = Mapping[signal.Signals, Any]

_worker: LastingWorker | None = None
"""The worker of this process."""


def default_name() -> str:
    """Returns a name that no other worker has."""
    return f"{socket.gethostname()}.{os.getpid()}.{os.urandom(2).hex()}"


def check(settings: Settings) -> None:
    """Raises ConfigurationError or PoolingError for settings with which every job would fail."""
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
    require_session(settings)


def serve(settings: Settings, name: str, *, burst: bool, grace: int | None) -> None:
    """Works until told to stop or, in a burst, until the queue is empty.

    `grace`: seconds after which a stop cuts off the job at work; None lets it finish.

    Raises WorkerNameTakenError, RedisError, and ServerError if RQ's worker ended for another
    reason.
    """
    global _worker  # noqa: PLW0603 - the thread that waits for the parent reads it
    client = connect(settings)
    use_settings(settings, client)
    certificates.use_settings(settings)
    with redis_errors(client):
        worker = LastingWorker(settings, client, name)
        _worker = worker
        try:
            worker.work_until_stopped(burst=burst, grace=grace)
        except RuntimeError as error:
            client.ping()
            raise ServerError(
                "the worker could not go on", hint="see the log above, and start it again"
            ) from error


def needs_parent() -> bool:
    """Returns whether this process is PID 1, as in a container without an init.

    PID 1 becomes the parent of orphans, such as the git of a killed job. RQ's worker waits for its
    own child processes only, so orphans would stay as zombies.
    """
    return os.getpid() == 1


def serve_with_children(count: int, run: Callable[[int], int]) -> int:
    """Forks `count` children, which call `run` with a number and exit with its value.

    SIGTERM, SIGINT, SIGHUP and the end of this process send the children SIGTERM. A killed child is
    replaced by one with a new number, since RQ holds its name for a while. A child that ends with
    an error ends all. Waits for orphans, too. Returns the first error's exit code, or 0.
    """
    alive, held_by_parent = os.pipe()
    children: set[int] = set()
    numbers = itertools.count(1)
    stopping = told_to_end = False
    code = 0

    def stop() -> None:
        nonlocal stopping
        stopping = True
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal told_to_end
        is_first, told_to_end = not told_to_end, True
        # A second SIGTERM cuts off the job of a child. The first one may have followed an error,
        # and a closed terminal often sends two SIGHUPs.
        if not stopping or not (is_first or number == signal.SIGHUP):
            stop()

    def start() -> None:
        # The child must receive no signal before it has its own handlers.
        with held_back() as mask:
            if stopping:
                return
            number = next(numbers)
            pid = os.fork()
            if pid == 0:
                os.close(held_by_parent)
                _be_child(mask, before, alive, lambda: run(number))
            children.add(pid)

    before = {
        number: signal.signal(number, handle)
        for number in ENDING
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        for _ in range(count):
            start()
        while children:
            pid, status = os.wait()
            if pid not in children:
                continue
            children.remove(pid)
            exit_code = os.waitstatus_to_exitcode(status)
            if exit_code < 0:
                name = _name_of(-exit_code)
                log.warning("a worker was killed by %s: another is started", name)
                time.sleep(_PAUSE)  # the cause may kill the next one, too
                start()
            elif exit_code > 0 and not code:
                code = exit_code
                if not stopping:
                    stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(alive)
        os.close(held_by_parent)
    return code


def _name_of(number: int) -> str:
    """Returns a signal's name, or its number: most real-time signals have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _be_child(
    mask: set[int | signal.Signals], handlers: Handlers, alive: int, run: Callable[[], int]
) -> NoReturn:
    """Runs in a forked process, with the parent's former handlers and mask.

    `alive` is a pipe that the system closes when the parent ends.
    """
    try:
        Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = run()
    except (KeyboardInterrupt, SystemExit):
        code = 0  # a signal before the start, or a second one
    os._exit(code)


def _end_with_parent(alive: int) -> None:
    """Sends this process SIGTERM when the parent has ended, unless the worker is ending already.

    A second SIGTERM would cut off the job. The thread is started while signals are held back: a
    signal that the system delivered to it would not wake the main thread.
    """
    os.read(alive, 1)
    if _worker is None or not _worker.stop_was_requested:
        os.kill(os.getpid(), signal.SIGTERM)
