"""Turns errors of the driver into ours."""

import re
import socket
from collections.abc import Iterable

import psycopg
from psycopg import errors as pg

from docora_ops.errors import (
    LinkError,
    LinkLockedError,
    PoolingError,
    PostgresDeniedError,
    PostgresError,
    StatementTimeoutError,
)
from docora_ops.text import mask

IDLE_LIMIT = 6
"""Seconds that a transaction may be idle: longer than a call of Redis with rows locked."""

_STATEMENT_POOLING = "statement pooling"
"""Part of PgBouncer's error for BEGIN; its SQLSTATE is not specific."""

# The driver does not pass on the SQLSTATE of a refused login.
_REFUSED_LOGIN = re.compile(
    "(password|authentication) .*failed|no pg_hba.conf entry|not permitted to log in"
    '|role ".*" does not exist|denied for database'
)
_NO_PRIMARY = re.compile(r"failed: (session is read-only|server is in hot standby mode)")
"""The reason that libpq gives for each host that `target_session_attrs` rules out."""
_RESTARTS = tuple(
    f"the database system is {state}"
    for state in ("starting up", "shutting down", "in recovery mode", "not yet accepting")
)


class ReplyTimeoutError(psycopg.OperationalError):
    """The server did not answer in time."""


def explain(
    error: psycopg.Error,
    where: str,
    *,
    is_connected: bool,
    statement_timeout: float,
    lock_timeout: float,
    secrets: Iterable[str | None],
) -> PostgresError:
    """Returns our error for one of the driver, with a sentence and a hint.

    `where` names the database. The timeouts are those of the session, in seconds. `secrets` are
    masked in the server's text.
    """
    text = mask(_primary_message(error), secrets)
    match error:
        case ReplyTimeoutError() | pg.ConnectionTimeout():
            return PostgresError(
                f"{where} did not answer in time", hint="check its load and the network"
            )
        case pg.IdleInTransactionSessionTimeout():
            return PostgresError(
                f"{where} ended a transaction of ours that was idle for {IDLE_LIMIT} s",
                hint="it was stopped, as by Ctrl-Z, or Redis or this machine is too slow",
            )
        case pg.LockNotAvailable():
            return LinkLockedError(
                f"another session has held a lock for over {lock_timeout:g} s",
                hint="try again; pg_stat_activity in the database shows who it is",
            )
        case pg.QueryCanceled():
            return StatementTimeoutError(
                f"{where} did not finish a statement within {statement_timeout} s",
                hint="check its load, or raise DOCORA_OPS_STATEMENT_TIMEOUT",
            )
        case pg.UndefinedTable() | pg.UndefinedColumn():
            return PostgresError(
                f"{where} is not a Docora database: {text}",
                hint="point DATABASE_URL at the database that Docora uses, and let the role "
                "use its schema: docora-ops help privileges",
            )
        case pg.InsufficientPrivilege():
            return PostgresDeniedError(
                f"{where} refuses: {text}",
                hint="docora-ops help privileges lists what the role in DATABASE_URL needs",
            )
        case pg.ReadOnlySqlTransaction():
            return _read_only(where)
        case pg.FeatureNotSupported() if "recovery" in text:  # READ WRITE on a standby
            return _read_only(where)
        case pg.DeadlockDetected() | pg.SerializationFailure():
            return LinkError(f"{where} undid a change: {text}", hint="try again")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return _explain_connection(error, where, text, is_connected=is_connected)
    return LinkError(f"{where} refuses: {text}", hint="see the database's log")


def _read_only(where: str) -> PostgresError:
    return PostgresError(
        f"{where} is read-only",
        hint="point DATABASE_URL at the primary; if this is a standby that takes over, try again "
        "once it is promoted",
    )


def _explain_connection(
    error: psycopg.Error, where: str, text: str, *, is_connected: bool
) -> PostgresError:
    if _STATEMENT_POOLING in text:
        return PoolingError(
            f"{where} is behind a proxy that pools statements, and docora-ops needs transactions",
            hint="have the proxy pool transactions or sessions (in PgBouncer: pool_mode), "
            "or point DATABASE_URL at Postgres itself",
        )
    if _REFUSED_LOGIN.search(text):
        return PostgresDeniedError(
            f"{where} refuses our login: {text}",
            hint="check the role and the password in DATABASE_URL, and pg_hba.conf",
        )
    if _NO_PRIMARY.search(str(error)):
        return PostgresError(
            f"{where} can't be used: no host of DATABASE_URL takes writes at present",
            hint="try again once a standby is promoted; else check whether transactions of "
            "the role are read-only, since target_session_attrs admits no such host",
        )
    hint = "check that it runs, and DATABASE_URL"
    if text.startswith(_RESTARTS):
        hint = "try again in a moment"
    elif re.search("certificate|private key|unknown ca", text):
        hint = "check the files of sslrootcert, sslcert and sslkey in DATABASE_URL, and sslpassword"
    if is_connected or "FATAL" in str(error):
        return PostgresError(f"{where} can't be used: {text}", hint=hint)
    if found := re.match(r"failed to resolve host '(.+?)': \[Errno (-?\d+)\]", text):
        host, number = found.groups()
        text, hint = f"no host named {host}", "check the host in DATABASE_URL"
        if int(number) == socket.EAI_AGAIN:
            text = f"the name {host} can't be looked up at present"
            hint += ", and the name server"
    elif text[1:2].islower():  # not an abbreviation, such as SSL
        text = text[0].lower() + text[1:]
    return PostgresError(f"{where} can't be reached: {text}", hint=hint)


def _primary_message(error: psycopg.Error) -> str:
    """Returns the main sentence of the server or the driver."""
    text = error.diag.message_primary or str(error).strip() or type(error).__name__
    # The driver lists each address that it tried, with hints on further lines.
    reasons = re.findall(r".*failed: (?:FATAL: +)?(.+)", text)
    return reasons[-1] if reasons else text.splitlines()[0]
