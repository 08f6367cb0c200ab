"""Connects to Redis, loads our Lua scripts, and explains the client's errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, cast

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from docora_ops.errors import ConfigurationError, RedisError
from docora_ops.settings import Settings
from docora_ops.text import mask

LONGEST_TIMEOUT = 5  # seconds: Docora may wait for rows that we have locked meanwhile
_MOST_DIGITS = 20
_NOT_PERMITTED = "NOPERM|ACL failure in script|can't run this command"


def connect(settings: Settings) -> redis.Redis:
    """Returns a client for `REDIS_URL`, which connects on its first command.

    The client waits at most 5 s to connect, and for each reply. It never repeats a command, because
    a push whose reply was lost may have succeeded.

    Raises ConfigurationError if the URL is unusable.
    """
    try:
        client = redis.Redis.from_url(
            settings.redis_url.get_secret_value(),
            client_name="docora-ops",
            driver_info=None,  # saves two commands per connection that users need permission for
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=min(settings.connect_timeout, LONGEST_TIMEOUT),
            socket_timeout=min(settings.statement_timeout, LONGEST_TIMEOUT),
        )
        # Only creating a connection reveals unknown options in the URL.
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, LookupError, AttributeError, OSError, redis.RedisError):
        raise ConfigurationError(
            "REDIS_URL is not a URL that the Redis client understands",
            hint="use redis://USER:PASSWORD@HOST:PORT/DB, rediss://… or unix:///PATH; "
            "percent-encode special characters in the password; ssl_… options need rediss://",
        ) from None
    if issubclass(pool.connection_class, redis.SSLConnection):
        # Otherwise, OpenSSL would ask for the password of an encrypted key on the terminal.
        pool.connection_kwargs.setdefault("ssl_password", "")
    return client


def describe(client: redis.Redis) -> str:
    """Names the server and the database of a client, without user or password."""
    options = client.connection_pool.connection_kwargs
    database = options.get("db", 0)
    if "path" in options:
        return f"{options['path']}, database {database}"
    host = options.get("host", "localhost")
    return f"{f'[{host}]' if ':' in host else host}:{options.get('port', 6379)}/{database}"


def load_script(client: redis.Redis, name: str) -> Script:
    """Returns a Lua script of this package. Its first run sends its text to Redis."""
    text = files("docora_ops.queue").joinpath(name).read_text(encoding="utf-8")
    return client.register_script(text)


def server_time(client: redis.Redis) -> float:
    """Returns the Unix time by the clock of Redis."""
    seconds, microseconds = client.time()
    return float(seconds) + microseconds / 1e6


def text_of(value: Any) -> str:
    """Decodes a reply in UTF-8, replacing malformed bytes; returns an empty text for None."""
    return (value or b"").decode(errors="replace") if not isinstance(value, str) else value


def number_of(value: Any) -> int | None:
    """Parses a whole number; returns None for any other text, which other programs may write."""
    return int(value) if value and value.isdigit() and len(value) < _MOST_DIGITS else None


def moment_of(seconds: float | None) -> datetime | None:
    """Converts Unix time; returns None if it is missing or out of range."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def replies(pipeline: Any) -> list[Any]:
    """Runs a pipeline. Returns the replies, with None for a key of the wrong type.

    Raises the client's RedisError for other errors.
    """
    answers: list[Any] = []
    for answer in pipeline.execute(raise_on_error=False):
        if isinstance(answer, Exception) and "WRONGTYPE" not in str(answer):
            raise answer
        answers.append(None if isinstance(answer, Exception) else answer)
    return answers


def pages(client: redis.Redis, key: str, size: int = 10_000) -> Iterator[list[str]]:
    """Yields the entries of a list, `size` at a time, from its tail.

    Workers take jobs from the head. Counted from the tail, they shift no entry out of a page.
    """
    end = -1
    while page := cast("list[bytes]", client.lrange(key, end - size + 1, end)):
        yield [text_of(entry) for entry in page]
        end -= size


@contextmanager
def redis_errors(client: redis.Redis) -> Iterator[None]:
    """Translates errors of the client raised in the block to our RedisError."""
    try:
        yield
    except redis.RedisError as error:
        message, hint = explain(error)
        raise RedisError(f"Redis at {describe(client)} {message}", hint=hint) from error


def explain(error: redis.RedisError) -> tuple[str, str]:
    """Returns the rest of a sentence that begins with `Redis at HOST`, and a hint."""
    text = str(error)
    line = mask(text.partition(", with args beginning with")[0].partition("\n")[0])[:200]
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return (
            "refuses our user or password",
            "check the credentials in REDIS_URL; a Redis without an ACL file forgets its users "
            "when it restarts: docora-ops help privileges says how to keep them",
        )
    # redis-py takes the code off the answer, and makes it a class. In an answer of Redis 6.2 about
    # a script, the code is in the text.
    if isinstance(error, exceptions.NoPermissionError) or re.search(_NOT_PERMITTED, text):
        named = re.search(r"the '([\w|-]+)' command", text)
        denied = f"the command {named[1]}" if named else "one of our keys"
        hint = "docora-ops help privileges lists what the user in REDIS_URL needs"
        return f"does not permit {denied} to our user", hint
    if isinstance(error, exceptions.TimeoutError) and "connecting" not in text:
        return "did not answer in time", f"check its load: it has {LONGEST_TIMEOUT} s to answer"
    if isinstance(error, exceptions.BusyLoadingError):
        return "is still loading its data", "try again in a moment"
    if isinstance(error, exceptions.TimeoutError | exceptions.ConnectionError):
        # Examples: `Error 111 connecting to HOST:PORT. Connection refused.`; `… [SSL] … (_ssl.c:1)`
        reason = re.sub(r"^Error.*? connecting to .*?\. |\[.*?\] | \(_ssl.*?\)", "", line)
        reason = reason[:1].lower() + reason[1:].rstrip(".")
        return (
            f"can't be reached: {reason}",
            "check that it is running, and check REDIS_URL and its TLS options",
        )
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM" in text:
        return "refuses writes: it is out of memory", "free memory or raise maxmemory"
    is_replica = isinstance(error, exceptions.ReadOnlyError | exceptions.MasterDownError)
    if is_replica or "READONLY" in text or "MASTERDOWN" in text:
        return "is a replica that takes no writes", "point REDIS_URL at the primary"
    if "WRONGTYPE" in text:
        key = re.search(r"\((?:[A-Z]+ )?([\w-]+:[^\s)]+)", text)
        return (
            f"has the wrong kind of value at {key[1] if key else 'one of our keys'}",
            "another program wrote it: rename the key, then repeat the command",
        )
    return f"answered with an error: {line}", "see Redis's log"


@dataclass(frozen=True)
class RedisFacts:
    """What `doctor` asks Redis itself.

    product: `Redis` or `Valkey`. time: Unix time by its clock. max_memory: bytes; 0 for no limit.
    policy: what it does when it is full; None if our user may not ask.
    """

    product: str
    version: str
    time: float
    used_memory: int
    max_memory: int
    policy: str | None


def read_redis_facts(client: redis.Redis) -> RedisFacts:
    """Asks Redis about itself. Raises RedisError."""
    with redis_errors(client):
        time = server_time(client)
        try:
            info: Any = client.info()
        except redis.ResponseError:  # a user without +info
            info = {}
    is_valkey = info.get("server_name") == "valkey"
    return RedisFacts(
        product="Valkey" if is_valkey else "Redis",
        version=str(info.get("valkey_version" if is_valkey else "redis_version", "unknown")),
        time=time,
        used_memory=int(info.get("used_memory", 0)),
        max_memory=int(info.get("maxmemory", 0)),
        policy=info.get("maxmemory_policy"),
    )
