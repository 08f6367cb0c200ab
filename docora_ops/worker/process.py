"""Runs the processes of a worker: one, or several under one parent."""

import itertools
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from docora_ops.database.postgres_server import require_session
from docora_ops.queue import connect
from docora_ops.queue.redis_client import redis_errors
from docora_ops.settings import Settings
from docora_ops.worker import host
from docora_ops.worker.git import require_git
from docora_ops.worker.interrupts import blocked, handle_ending
from docora_ops.worker.log import log
from docora_ops.worker.resources import use_settings
from docora_ops.worker.rq_worker import SnapshotWorker
from docora_ops.worker.watchdog import INTERVAL, Watchdog

_PAUSE = 1.0  # seconds before a killed child is replaced


def prepare(settings: Settings) -> None:
    """Prepares this process for jobs, and trusts the certificate authorities of the settings.

    Raises DocoraOpsError if every job would fail on this host or with these settings.
    """
    settings.require_database_url()
    settings.require_encryption_key()
    require_git()
    if fault := host.find_fault(settings.repos_base_path):
        raise fault
    require_session(settings)
    host.use_authorities(settings, settings.repos_base_path)


def serve(
    settings: Settings,
    name: str,
    watchdog: Watchdog,
    *,
    burst: bool,
    grace: int | None,
    parent: int | None = None,
) -> None:
    """Runs a worker in this process. Raises DocoraOpsError.

    Parameters: see `SnapshotWorker` and `SnapshotWorker.run_jobs`.
    """
    client = connect(settings)
    use_settings(settings, client)
    with redis_errors(client):
        worker = SnapshotWorker(settings, client, name, parent, watchdog)
        worker.run_jobs(burst=burst, grace=grace)


def serve_with_children(count: int, run: Callable[[int], int], watchdog: Watchdog) -> int:
    """Runs `count` child processes until all have ended.

    Returns the exit code of the first child that ended with an error, or 0 if none did.

    Passes SIGTERM, SIGINT and SIGHUP on to the children as SIGTERM. Replaces a killed child. If a
    child ends with an error, ends all of them. As process 1 of a container, also reaps orphans.
    RQ's WorkerPool does none of this.

    run: called in each child with the child's number; returns the child's exit code. A child that
        replaces another gets a new number, because RQ keeps the name of a killed worker for two
        minutes.
    watchdog: has a slot for each child.
    """
    children: dict[int, int] = {}  # slots by process id
    numbers = itertools.count(1)
    stopping = False
    code = 0

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal stopping
        stopping = True
        watchdog.stop()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def start(slot: int) -> None:
        # The child must receive no signal before it has its own handlers.
        with blocked() as mask:
            if stopping:
                return
            number = next(numbers)
            pid = os.fork()
            if pid == 0:
                for ending, handler in before.items():
                    signal.signal(ending, handler)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                watchdog.become_child(slot)
                try:
                    code = run(number)
                except (KeyboardInterrupt, SystemExit):  # a signal before the worker began
                    code = 0
                os._exit(code)
            children[pid] = slot
            watchdog.begin(slot)

    before = handle_ending(stop)
    # The alarm interrupts the wait for a child. Children do not inherit it.
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: watchdog.tell())
    signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)
    for slot in range(count):
        start(slot)
    while children:
        pid, status = os.wait()
        if pid not in children:
            continue
        slot = children.pop(pid)
        watchdog.end(slot)
        exit_code = os.waitstatus_to_exitcode(status)
        if exit_code < 0:
            log.warning("a worker was killed by signal %d: another is started", -exit_code)
            time.sleep(_PAUSE)  # the cause may kill the next one, too
            start(slot)
        elif exit_code > 0 and not code:
            code = exit_code
            stop(signal.SIGTERM, None)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return code
