"""Connecting to Redis, running scripts, turning its errors into ours, and decoding its values."""

import re
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, cast

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry

from docora_ops.errors import ConfigurationError, RedisDeniedError, RedisError
from docora_ops.settings import Settings
from docora_ops.text import mask

Command = Sequence[str | int | bytes]
"""A command of Redis with its arguments."""

ROWS_LOCKED_TIMEOUT = 4  # seconds for an answer while rows are locked: Docora waits for them


def connect(settings: Settings) -> redis.Redis:
    """Returns a client for `REDIS_URL`, which connects at its first command.

    The client never repeats a command, because a push whose reply was lost may have been done.
    Raises ConfigurationError if the URL is unusable.
    """
    try:
        client = redis.Redis.from_url(
            settings.redis_url.get_secret_value(),
            client_name="docora-ops",
            driver_info=None,  # or each connection begins with two more commands to be permitted
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            # After a failover the next command must connect anew: a name may lead elsewhere then.
            retry_on_error=[exceptions.ReadOnlyError, exceptions.MasterDownError],
            socket_connect_timeout=settings.connect_timeout,
            socket_timeout=settings.statement_timeout,
        )
        # An unknown option in the URL shows only when a connection is made from it.
        pool = client.connection_pool
        options = pool.connection_kwargs
        pool.connection_class(**options)
        str(options.get("host", "")).encode("idna")  # as the look-up does
    except (ValueError, TypeError, LookupError, AttributeError, OSError, redis.RedisError):
        raise ConfigurationError(
            "REDIS_URL is not a URL that the Redis client understands",
            hint="use redis://USER:PASSWORD@HOST:PORT/DB, rediss://… or unix:///PATH; "
            "percent-encode special characters in the password; ssl_… options need rediss://",
        ) from None
    if issubclass(pool.connection_class, redis.SSLConnection):
        # Without one, OpenSSL asks the terminal for the password of an encrypted key.
        options.setdefault("ssl_password", "")
        if problem := _unusable_file(options):
            hint = "correct it in REDIS_URL, or the file"
            raise ConfigurationError(f"REDIS_URL can't be used: {problem}", hint=hint)
    return client


def _unusable_file(options: Mapping[str, Any]) -> str | None:
    """Returns which file of the TLS options can't be used, and why; None if all can be used."""
    names = ("ca_certs", "certfile", "keyfile")
    authorities, certificate, key = (options.get(f"ssl_{name}") for name in names)
    if key and not certificate:
        return "ssl_keyfile needs ssl_certfile, the certificate that belongs to the key"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    what = f"ssl_ca_certs={authorities}"
    try:
        if authorities:
            context.load_verify_locations(authorities)
        what = f"ssl_certfile={certificate}" + (f" with ssl_keyfile={key}" if key else "")
        if certificate:
            context.load_cert_chain(certificate, key, options["ssl_password"])
    except OSError as error:
        reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or ""
        words = reason.replace("_", " ").lower() or "not in PEM format, or not with ssl_password"
        return f"{what} can't be used: {words}"
    return None


def client_for_locked_rows(client: redis.Redis) -> redis.Redis:
    """Returns a client of the same server that waits at most 4 s for it."""
    pool = client.connection_pool
    options = dict(pool.connection_kwargs)
    for name in ("socket_timeout", "socket_connect_timeout"):
        options[name] = min(options.get(name) or ROWS_LOCKED_TIMEOUT, ROWS_LOCKED_TIMEOUT)
    pool = redis.ConnectionPool(connection_class=pool.connection_class, **options)
    return redis.Redis(connection_pool=pool)


class Script:
    """A Lua script of this package. Rows may be locked while it runs: Redis has 4 s."""

    def __init__(self, client: redis.Redis, *names: str) -> None:
        """`names`: the files that the script consists of."""
        self.client = client_for_locked_rows(client)
        folder = files("docora_ops.queue")
        texts = [folder.joinpath(name).read_text(encoding="utf-8") for name in names]
        self._script = self.client.register_script("".join(texts))
        self._clock: tuple[float, float] | None = None  # Redis's, and ours at that moment

    def load(self) -> tuple[float, float]:
        """Loads the script and reads the clock, in one round trip. Raises RedisError."""
        pipeline = self.client.pipeline(transaction=False)
        pipeline.script_load(self._script.script)
        pipeline.time()
        with redis_errors(self.client):
            _, (seconds, microseconds) = pipeline.execute()
        self._clock = seconds + microseconds / 1e6, time.monotonic()
        return self._clock

    def server_time(self) -> float:
        """Returns the time by the clock of Redis, in seconds since 1970. Raises RedisError."""
        at, then = self._clock or self.load()
        return at + time.monotonic() - then

    def run(self, arguments: Sequence[str | bytes | int]) -> list[str]:
        """Runs the script and returns its answers. Raises RedisError."""
        with redis_errors(self.client):
            replies = cast("list[bytes]", self._script(args=arguments))
        return [reply.decode(errors="replace") for reply in replies]


def measure(client: redis.Redis) -> tuple[float, float]:
    """Returns the seconds that an answer takes, and the time of Redis. Raises RedisError."""
    with redis_errors(client):
        client.time()  # connects, which takes several answers
        began = time.monotonic()
        clock = server_time(client)
        return time.monotonic() - began, clock


def server_time(client: redis.Redis) -> float:
    """Returns the time of the server's clock, in seconds since 1970."""
    seconds, microseconds = client.time()
    return float(seconds) + microseconds / 1e6


def answers_of(pipeline: Pipeline) -> list[Any]:
    """Runs the commands of a pipeline; the answer for a key of another type is None."""
    answers = []
    for answer in pipeline.execute(raise_on_error=False):
        is_other = isinstance(answer, redis.ResponseError) and "WRONGTYPE" in str(answer)
        if isinstance(answer, Exception) and not is_other:
            raise answer
        answers.append(None if is_other else answer)
    return answers


def read_hashes(
    client: redis.Redis, keys: Iterable[str], fields: Sequence[str]
) -> list[list[bytes | None]]:
    """Reads these fields of each hash; all are None for a key of another type."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, list(fields))
    return [row or [None] * len(fields) for row in answers_of(pipeline)]


def describe(client: redis.Redis) -> str:
    """Names the server and the database of a client, without user or password."""
    options = client.connection_pool.connection_kwargs
    database = options.get("db", 0)
    if "path" in options:
        return f"{options['path']}, database {database}"
    host = options.get("host", "localhost")
    return f"{f'[{host}]' if ':' in host else host}:{options.get('port', 6379)}/{database}"


# Errors


@contextmanager
def redis_errors(client: redis.Redis) -> Iterator[None]:
    """Raises an error of the client inside the block as RedisError, with a sentence and a hint."""
    try:
        yield
    except redis.RedisError as error:
        raise explained(client, error) from error


def explained(client: redis.Redis, error: redis.RedisError) -> RedisError:
    """Returns an error of the client as RedisError, with a sentence and a hint.

    A refused login or privilege is a RedisDeniedError.
    """
    message, hint = explain(error)
    is_denied = isinstance(error, _LOGIN_ERRORS) or _lacks_permission(error)
    kind = RedisDeniedError if is_denied else RedisError
    return kind(f"Redis at {describe(client)} {message}", hint=hint)


_LOGIN_ERRORS = (exceptions.AuthenticationError, exceptions.AuthorizationError)
_OUTAGES = (exceptions.ReadOnlyError, exceptions.MasterDownError, exceptions.OutOfMemoryError)


def explain(error: redis.RedisError) -> tuple[str, str]:
    """Returns a sentence, whose subject is Redis, and a hint."""
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
            # Redis may complain of a client's certificate only after the handshake.
            alert = re.search(r"\[SSL: \w+\] ([\w ]+)", text)
            hint = hint.replace("options", "options, such as a client certificate")
            return "broke the connection" + (f": {alert[1].strip()}" if alert else ""), hint
        # From `Error 111 connecting to HOST:PORT. Connection refused.`, or with OpenSSL's marks.
        reason = re.sub(r"^Error.*? connecting to .*?\. |\[.*?\] | \(_ssl.*?\)", "", text)
        return f"can't be reached: {mask(reason[:1].lower() + reason[1:].rstrip('.'))}", hint
    if _lacks_permission(error) or "EXEC without MULTI" in text:
        # Redis names the command, yet never the key or channel.
        command = re.search(r"to run the '([\w|-]+)' command|EXEC without (MULTI)", text)
        named = command and (command[1] or command[2].lower())
        what = f"the command {named}" if named else "one of our keys or channels"
        hint = "docora-ops help privileges lists what the user in REDIS_URL needs"
        return f"does not permit {what} to our user", hint
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
    """Returns why Redis takes no writes, and what to do; None if the error says something else."""
    text = str(error)  # inside a script, the error is a plain one with the code in its text
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
    """Tells whether the server may answer later: it is away, overloaded, or fails over."""
    if isinstance(error, _LOGIN_ERRORS):
        return False  # although the client takes them for errors of the connection
    return isinstance(error, (redis.ConnectionError, redis.TimeoutError, *_OUTAGES)) or bool(
        re.search(r"\b(READONLY|UNBLOCKED|NOREPLICAS|MISCONF|OOM|BUSY)\b", str(error))
    )


def _lacks_permission(error: redis.RedisError) -> bool:
    text = str(error)
    is_denied = isinstance(error, exceptions.NoPermissionError)
    return is_denied or "NOPERM" in text or "ACL failure in script" in text


# Values

_MOST_DIGITS = 20


def whole_number(text: bytes | None, *, signed: bool = False) -> int | None:
    """Parses a number that others may have written; returns None for anything but a few digits.

    signed: allow a minus sign.
    """
    digits = (text or b"").removeprefix(b"-" if signed else b"")
    return int(text) if text and digits.isdigit() and len(text) < _MOST_DIGITS else None


def text_of(value: bytes) -> str:
    """Decodes a value."""
    return value.decode(errors="replace")


def optional_text_of(value: bytes | None) -> str | None:
    """Decodes a value, None if it is missing or empty."""
    return text_of(value) if value else None


def moment_of_timestamp(seconds: float) -> datetime | None:
    """Returns the moment, None if the number is out of range."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None
