"""The log of workers and jobs: their logger, its lines on stderr, and how they name a link."""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from redis import RedisError

from docora_ops.links import link_name
from docora_ops.text import inert, mask, moment

# Below RQ's logger, so that `rq worker` shows the lines of a job, too.
NAME = "rq.worker.snapshot"

log = logging.getLogger(NAME)

# The beginnings of RQ's warnings about events for which we log a line of our own.
_SAID_BY_US = ("Work horse killed for job", "Worker %s: job %s failed (", "%s cleanup: %s %s")


class OneLineHandler(logging.Handler):
    """Writes each event on one inert line: all of ours, and the warnings and errors of RQ."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the line to stderr at once, unless that is closed.

        A signal handler may log in the middle of this, which a buffer does not allow.
        """
        if record.name != NAME:
            if record.levelno < logging.WARNING or str(record.msg).startswith(_SAID_BY_US):
                return
            error = record.exc_info[1] if record.exc_info else None
            if isinstance(error, RedisError):  # no bug, so it needs no traceback
                record.msg, record.args = "%s (%s)", (record.getMessage(), type(error).__name__)
                record.exc_info = None
        when = moment(datetime.fromtimestamp(record.created, UTC))
        line = f"{when} {record.levelname} {inert(self.format(record))}\n"
        with suppress(OSError):
            os.write(sys.stderr.fileno(), line.encode(errors="backslashreplace"))


def name_of_link(about: Mapping[str, object]) -> str:
    """Returns `App ← owner/name`, inert and without secrets: the ids if there are no names.

    about: the arguments of a job, or what its row holds.
    """
    app_name, owner, name = (about.get(key) for key in ("app_name", "owner", "name"))
    if isinstance(app_name, str) and isinstance(owner, str) and isinstance(name, str):
        return inert(mask(link_name(app_name, f"{owner}/{name}")))
    return inert(f"{about.get('app_id')} {about.get('repository_id')}")
