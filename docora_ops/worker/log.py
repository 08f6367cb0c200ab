"""The log of the workers: one line per event on stderr."""

import logging
import sys
import traceback
from datetime import UTC, datetime

from redis import RedisError

from docora_ops.queue.connection import explain
from docora_ops.text import inert, mask, moment

log = logging.getLogger("docora_ops.worker")


def places_of(error: BaseException) -> str:
    """Returns where an exception was raised. Its text, which may contain secrets, is not logged."""
    frames = traceback.extract_tb(error.__traceback__)
    return "; ".join(f"{frame.filename}:{frame.lineno}" for frame in frames)


class _OneLine(logging.Formatter):
    """Formats an event as one line of inert text without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RedisError):  # no bug, so it needs no traceback
            text = f"{text} (Redis {explain(error)[0]})"
        elif error is not None:
            text = f"{text} ({type(error).__name__} at {places_of(error)})"
        return f"{moment(datetime.fromtimestamp(record.created, UTC))} {inert(mask(text))}"


class _Quiet(logging.Filter):
    """Drops RQ's routine messages, and a complaint that it repeats, such as in an outage."""

    last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells whether the record is to be logged."""
        if not record.name.startswith("rq"):
            return True
        last, self.last = self.last, str(record.msg)
        return record.levelno >= logging.WARNING and self.last != last


def log_to_stderr() -> None:
    """Writes our events, and RQ's warnings and errors, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    handler.addFilter(_Quiet())
    for logger in (log, logging.getLogger("rq")):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
