"""The log of workers and jobs: their logger, its lines on stderr, and how they name a link."""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from redis import RedisError

from docora_ops import links
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


def link_name(app_name: str, repository_name: str) -> str:
    """Returns `App ← owner/name`, inert and without secrets."""
    return inert(mask(links.link_name(app_name, repository_name)))


def name_of_arguments(arguments: Mapping[str, object]) -> str:
    """Names the link of a job by the job's arguments, by its ids if these hold no names."""
    given = [arguments.get(key) for key in ("app_name", "owner", "name")]
    if all(isinstance(each, str) for each in given):
        app_name, owner, name = given
        return link_name(str(app_name), f"{owner}/{name}")
    return inert(f"{arguments.get('app_id')} {arguments.get('repository_id')}")
