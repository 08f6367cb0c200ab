"""The log of workers and jobs on stderr, as text or JSON; the record of outcomes in Redis."""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

from redis import Redis, RedisError

from docora_ops.errors import RedisDeniedError
from docora_ops.links import LinkRef, link_name
from docora_ops.queue.outcomes import SnapshotOutcome, record_outcome
from docora_ops.queue.redis_client import explain
from docora_ops.text import inert, mask, moment

# Below RQ's logger, so that `rq worker` shows the lines of a job, too.
NAME = "rq.worker.snapshot"

log = logging.getLogger(NAME)

# RQ's warnings that begin so are left out, because a line of our own reports the same event.
_REPORTED_BY_US = ("Work horse killed for job", "Worker %s: job %s failed (", "%s cleanup: %s %s")

# Fields of a link, and of the end of a job. They are null in the objects of other events.
_LINK_FIELDS = ("app_id", "app_name", "repository_id", "repository_name", "job_id")
_END_FIELDS = ("outcome", "seconds", "files", "error_message")


class OneLineHandler(logging.Handler):
    """Writes our events, and RQ's warnings and errors, each as one line of inert text."""

    def __init__(self, *, as_json: bool = False) -> None:
        super().__init__()
        self._as_json = as_json
        if as_json:
            from pythonjsonlogger.json import JsonFormatter

            fields = ["at", "levelname", "message", *_LINK_FIELDS, *_END_FIELDS]
            names = {"at": "logged_at", "levelname": "level", "exc_info": "traceback"}
            self.setFormatter(JsonFormatter(fields, rename_fields=names))

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line to stderr, unbuffered, because a signal handler may log meanwhile."""
        if record.name != NAME:
            if record.levelno < logging.WARNING or str(record.msg).startswith(_REPORTED_BY_US):
                return
            error = record.exc_info[1] if record.exc_info else None
            if isinstance(error, RedisError):  # no bug, so it needs no traceback
                message, (reason, _) = record.getMessage(), explain(error)
                record.msg, record.args = "%s (Redis %s)", (message, reason)
                record.exc_info = None
        when = moment(datetime.fromtimestamp(record.created, UTC))
        if self._as_json:
            record.at = when
            line = f"{self.format(record)}\n"
        else:
            line = f"{when} {record.levelname} {inert(self.format(record))}\n"
        with suppress(OSError):
            os.write(sys.stderr.fileno(), line.encode(errors="backslashreplace"))


def tell(
    about: Mapping[str, object],
    text: str,
    level: int = logging.INFO,
    outcome: SnapshotOutcome | None = None,
) -> None:
    """Logs an event of a link's job. Masks secrets in the names of app and repository.

    about: the app_id and repository_id of the link; app_name, owner and name if known.
    outcome: None unless the event is the end of the job.
    """
    ref = LinkRef("", str(about.get("app_id")), str(about.get("repository_id")))
    title = f"{ref.app_id} {ref.repository_id}"
    ids = (ref.app_id, None, ref.repository_id, None, ref.job_id)
    fields: dict[str, object] = dict(zip(_LINK_FIELDS, ids, strict=True))
    app_name, owner, name = (about.get(key) for key in ("app_name", "owner", "name"))
    if isinstance(app_name, str) and isinstance(owner, str) and isinstance(name, str):
        names = mask(app_name), mask(f"{owner}/{name}")
        fields["app_name"], fields["repository_name"] = names
        title = link_name(*names)
    if outcome is not None:
        fields |= {field: getattr(outcome, field) for field in _END_FIELDS}
        if outcome.seconds is None:  # nobody has counted the files of a killed job
            fields["files"] = None
    log.log(level, "%s: %s", inert(title), inert(text), extra=fields)


def record(client: Redis, outcome: SnapshotOutcome, *, keep_entry: bool = True) -> None:
    """Writes the outcome of a job to the record of outcomes.

    Logs errors and raises none, because the link already has its new status.

    keep_entry: whether to add an entry for this job. The outcome is counted in any case.
    """
    try:
        record_outcome(client, outcome, keep_entry=keep_entry)
    except RedisDeniedError:
        pass  # the worker warns once that it has no permission
    except Exception as error:  # noqa: BLE001 - such as the time limit of the job
        reason = getattr(error, "message", type(error).__name__)
        tell(asdict(outcome), f"its outcome is not recorded: {reason}", logging.WARNING)
