"""Translates errors of the Redis client to RedisError, with a message and a hint for people."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis import exceptions

from docora_ops.errors import RedisDeniedError, RedisError
from docora_ops.queue.redis_client import ROWS_LOCKED_TIMEOUT, describe
from docora_ops.text import mask

_LOGIN_ERRORS = (exceptions.AuthenticationError, exceptions.AuthorizationError)
_OUTAGES = (exceptions.ReadOnlyError, exceptions.MasterDownError, exceptions.OutOfMemoryError)


@contextmanager
def redis_errors(client: redis.Redis) -> Iterator[None]:
    """Translates errors of the client raised in the block to RedisError."""
    try:
        yield
    except redis.RedisError as error:
        raise explained(client, error) from error


def explained(client: redis.Redis, error: redis.RedisError) -> RedisError:
    """Translates an error of the client to RedisError, or RedisDeniedError if access is denied."""
    message, hint = explain(error)
    is_denied = isinstance(error, _LOGIN_ERRORS) or _lacks_permission(error)
    kind = RedisDeniedError if is_denied else RedisError
    return kind(f"Redis at {describe(client)} {message}", hint=hint)


def explain(error: redis.RedisError) -> tuple[str, str]:
    """Returns the rest of a sentence that begins with `Redis at HOST`, and a hint."""
    text = str(error)
    if isinstance(error, _LOGIN_ERRORS):
        return (
            "refuses our user or password",
            "check the credentials in REDIS_URL; a Redis without an ACL file forgets its users "
            "when it restarts: docora-ops help privileges says how to keep them",
        )
    if isinstance(error, exceptions.TimeoutError) and "connecting" not in text:
        return (
            "did not answer in time",
            f"check its load: it has {ROWS_LOCKED_TIMEOUT} s to look at jobs or queue them, and "
            "DOCORA_OPS_STATEMENT_TIMEOUT otherwise",
        )
    is_loading = isinstance(error, exceptions.BusyLoadingError)
    if isinstance(error, exceptions.TimeoutError | exceptions.ConnectionError) and not is_loading:
        hint = "check that it runs, REDIS_URL and, with rediss://, its TLS options; see Redis's log"
        if "connecting to" not in text:
            # Redis may reject a client's certificate only after the handshake.
            alert = re.search(r"\[SSL: \w+\] ([\w ]+)", text)
            hint = hint.replace("options", "options, such as a client certificate")
            return "broke the connection" + (f": {alert[1].strip()}" if alert else ""), hint
        # Examples: `Error 111 connecting to HOST:PORT. Connection refused.`; `… [SSL] … (_ssl.c:1)`
        reason = re.sub(r"^Error.*? connecting to .*?\. |\[.*?\] | \(_ssl.*?\)", "", text)
        return f"can't be reached: {mask(reason[:1].lower() + reason[1:].rstrip('.'))}", hint
    if _lacks_permission(error) or "EXEC without MULTI" in text:
        # Redis names the command, but never the key or channel.
        command = re.search(r"to run the '([\w|-]+)' command|EXEC without (MULTI)", text)
        named = command and (command[1] or command[2].lower())
        denied = f"the command {named}" if named else "one of our keys or channels"
        hint = "docora-ops help privileges lists what the user in REDIS_URL needs"
        return f"does not permit {denied} to our user", hint
    if isinstance(error, exceptions.MasterDownError):
        return (
            "is a replica without a primary, and answers nothing",
            "point REDIS_URL at the primary, or try again once the replica is promoted",
        )
    return explain_refused_write(error) or (
        f"answered with an error: {_first_line(text)}",
        "see Redis's log",
    )


def _first_line(text: str) -> str:
    # Redis repeats the arguments of an unknown command, which may hold a password.
    text = text.partition(", with args beginning with")[0].splitlines()[0] if text else "no text"
    return mask(text)[:200]


def explain_refused_write(error: redis.RedisError) -> tuple[str, str] | None:
    """Returns why Redis refuses writes, and a hint; None if the error is another one."""
    text = str(error)  # an error in a script has no class of its own, only the code in its text
    if isinstance(error, exceptions.OutOfMemoryError) or re.search(r"\bOOM\b", text):
        return "refuses writes: it is out of memory", "free memory or raise maxmemory"
    if isinstance(error, exceptions.ReadOnlyError) or re.search(r"\bREADONLY\b", text):
        return (
            "refuses writes: it is a read-only replica",
            "point REDIS_URL at the primary; if this replica takes over, try again once it is "
            "promoted",
        )
    if re.search(r"\b(MISCONF|NOREPLICAS)\b", text):
        return f"refuses writes: {_first_line(text)}", "see Redis's log, its disk and its replicas"
    return None


def is_outage(error: redis.RedisError) -> bool:
    """Tells whether the server may recover: it is down, overloaded, or failing over."""
    if isinstance(error, _LOGIN_ERRORS):
        return False  # although redis-py derives them from ConnectionError
    return isinstance(error, (redis.ConnectionError, redis.TimeoutError, *_OUTAGES)) or bool(
        re.search(r"\b(READONLY|UNBLOCKED|NOREPLICAS|MISCONF|OOM|BUSY)\b", str(error))
    )


def _lacks_permission(error: redis.RedisError) -> bool:
    if isinstance(error, exceptions.NoPermissionError):
        return True
    # The last one is what Redis 6.2 says of a script.
    denials = ("NOPERM", "ACL failure in script", "The user executing the script")
    return any(denial in str(error) for denial in denials)
