"""A connection of psycopg that gives up on a silent server and can be interrupted at any place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import QueryCanceled
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

RV = TypeVar("RV")
_PAUSE = 0.05  # seconds between two questions about a transaction

REPLY_GRACE = 5
"""Seconds beyond the statement timeout after which a silent server counts as lost."""


class Connection(psycopg.Connection[TupleRow]):
    """A connection that gives up on a server that does not answer."""

    reply_timeout: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Waits for the server, `reply_timeout` seconds by default.

        Cancels the statement on any exception of a signal handler, as psycopg does on Ctrl-C only.
        Else the server would keep its locks.
        """
        try:
            return super().wait(gen, interval, self.reply_timeout if timeout is None else timeout)
        except psycopg.Error:
            raise
        except BaseException:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                try:
                    self.cancel_safe(timeout=REPLY_GRACE)
                    super().wait(gen, interval, REPLY_GRACE)
                except QueryCanceled:
                    pass
                except psycopg.Error:
                    self.close()
            raise

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """Sends the statements of the block without waiting for each.

        Lets the exception of a signal handler through. psycopg raises an error of its own instead
        if that exception has come at a place from which the pipeline can't be ended.
        """
        try:
            with super().pipeline() as pipeline:
                yield pipeline
        except psycopg.Error as error:
            cause = error.__context__
            if cause is None or isinstance(cause, psycopg.Error):
                raise
            self.close()
            raise cause from None


@dataclass(frozen=True)
class TransactionId:
    """The id of a transaction; the server of another timeline gives it to another one."""

    number: str
    timeline: str


_TIMELINE = "pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)"


def transaction_id(connection: Connection) -> TransactionId | None:
    """Returns the id of the open transaction, None if it has changed and locked nothing."""
    sql = f"SELECT pg_current_xact_id_if_assigned()::text, {_TIMELINE}"
    number, timeline = connection.execute(sql.encode()).fetchone() or (None, "")
    return number and TransactionId(number, timeline)


def has_committed(connection: Connection, transaction: TransactionId) -> bool:
    """Tells whether a transaction of a lost connection was committed; False if it is unknown."""
    until = time.monotonic() + REPLY_GRACE  # the server may not have noticed the loss yet
    state = timeline = None
    sql = f"SELECT pg_catalog.pg_xact_status(%s::pg_catalog.xid8), {_TIMELINE}"
    while state in {None, "in progress"} and time.monotonic() < until:
        time.sleep(_PAUSE)
        found = connection.execute(sql.encode(), (transaction.number,)).fetchone()
        state, timeline = found or (None, None)
    return state == "committed" and timeline == transaction.timeline
