"""The way from a command to running workers: checks, then the pool."""

import gc
import signal

from docora_ops.actions.docora import Docora
from docora_ops.errors import ExitCode, WrongBackendError
from docora_ops.links import QUEUE_NAME, Backend
from docora_ops.queue.bullmq import BullmqQueue
from docora_ops.queue.connection import connect, describe
from docora_ops.text import amount
from docora_ops.worker.authorities import use_authorities
from docora_ops.worker.host import find_fault
from docora_ops.worker.log import log, log_to_stderr
from docora_ops.worker.pool import ENDING, Pool, SnapshotWorker
from docora_ops.worker.resources import use_settings
from docora_ops.worker.snapshot_job import count_abandoned


def run_workers(docora: Docora, concurrency: int | None, *, burst: bool) -> ExitCode:
    """Runs workers until a signal comes; in a burst, until the queue is empty.

    concurrency: number of workers; None for SCAN_CONCURRENCY.

    Returns the exit code: 6 if a worker of a burst did not end well. Raises WrongBackendError if
    BullMQ's workers run the queue, ConfigurationError, ServerError and HostFaultError if every job
    would fail with these settings or on this host.
    """
    settings = docora.settings
    settings.require_database_url()
    settings.require_encryption_key()
    is_bullmq = docora.queue.backend is Backend.BULLMQ
    if is_bullmq or BullmqQueue(settings, docora.redis).workers():
        raise WrongBackendError(
            "this Docora uses BullMQ, whose jobs Docora's own workers run: each link would be "
            "worked on twice",
            hint="leave the work to them; or stop them (RUN_MODE=api), and set "
            "DOCORA_OPS_BACKEND=rq: docora-ops help workers",
        )
    if fault := find_fault(settings, docora.redis):
        raise fault
    log_to_stderr()
    use_authorities(settings)
    docora.close()  # each process has connections of its own
    client, count = connect(settings), concurrency or settings.scan_concurrency
    use_settings(settings, client)
    handlers = [count_abandoned]
    pool = Pool([QUEUE_NAME], client, count, SnapshotWorker, exception_handlers=handlers)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, pool.request_stop)
    workers = amount(count, "worker")
    log.info("%s, listening on %s, Redis %s", workers, QUEUE_NAME, describe(client))
    gc.freeze()  # the processes share what is in memory now
    gc.set_threshold(700)  # unlike other commands, a worker lives long
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    pool.start(burst, "WARNING")
    return pool.exit_code if burst else ExitCode.OK
