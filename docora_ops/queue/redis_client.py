"""Connects to Redis, runs scripts and pipelines, decodes replies, and explains errors."""

import json
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""A Redis command with its arguments."""
# Seconds to connect, and for each reply. Docora may wait for rows that we have locked meanwhile.
LONGEST_TIMEOUT = 5
_LOGIN_ERRORS = (exceptions.AuthenticationError, exceptions.AuthorizationError)
_OUTAGES = (exceptions.ReadOnlyError, exceptions.MasterDownError, exceptions.OutOfMemoryError)
_MOST_DIGITS = 20


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
            # Makes the next command reconnect after a failover, when the name may lead to another
            # server.
            retry_on_error=[exceptions.ReadOnlyError, exceptions.MasterDownError],
            socket_connect_timeout=min(settings.connect_timeout, LONGEST_TIMEOUT),
            socket_timeout=min(settings.statement_timeout, LONGEST_TIMEOUT),
        )
        # Only creating a connection reveals unknown options in the URL.
        pool = client.connection_pool
        options = pool.connection_kwargs
        pool.connection_class(**options)
        str(options.get("host", "")).encode("idna")  # fails as resolving the name would
    except (ValueError, TypeError, LookupError, AttributeError, OSError, redis.RedisError):
        raise ConfigurationError(
            "REDIS_URL is not a URL that the Redis client understands",
            hint="use redis://USER:PASSWORD@HOST:PORT/DB, rediss://… or unix:///PATH; "
            "percent-encode special characters in the password; ssl_… options need rediss://",
        ) from None
    if issubclass(pool.connection_class, redis.SSLConnection):
        # Otherwise, OpenSSL would ask for the password of an encrypted key on the terminal.
        options.setdefault("ssl_password", "")
        if problem := _unusable_file(options):
            hint = "correct it in REDIS_URL, or the file"
            raise ConfigurationError(f"REDIS_URL can't be used: {problem}", hint=hint)
    return client


def _unusable_file(options: Mapping[str, Any]) -> str | None:
    """Says which file in the TLS options is unusable, and why; returns None if all are usable."""
    names = ("ca_certs", "certfile", "keyfile")
    authorities, certificate, key = (options.get(f"ssl_{name}") for name in names)
    if key and not certificate:
        return "ssl_keyfile needs ssl_certfile, the certificate that belongs to the key"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    file = f"ssl_ca_certs={authorities}"
    try:
        if authorities:
            context.load_verify_locations(authorities)
        file = f"ssl_certfile={certificate}" + (f" with ssl_keyfile={key}" if key else "")
        if certificate:
            context.load_cert_chain(certificate, key, options["ssl_password"])
    except OSError as error:
        reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or ""
        words = reason.replace("_", " ").lower() or "not in PEM format, or not with ssl_password"
        return f"{file} can't be used: {words}"
    return None


def server_time(client: redis.Redis) -> float:
    """Returns the Unix time by the clock of Redis."""
    seconds, microseconds = client.time()
    return float(seconds) + microseconds / 1e6


def describe(client: redis.Redis) -> str:
    """Names the server and the database of a client, without user or password."""
    options = client.connection_pool.connection_kwargs
    database = options.get("db", 0)
    if "path" in options:
        return f"{options['path']}, database {database}"
    host = options.get("host", "localhost")
    return f"{f'[{host}]' if ':' in host else host}:{options.get('port', 6379)}/{database}"


def script_of(*names: str) -> str:
    """Joins Lua files of this package into one script."""
    folder = files("docora_ops.queue")
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


class Script:
    """A script of this package, joined from Lua files."""

    def __init__(self, client: redis.Redis, *names: str) -> None:
        self._client = client
        self._script = client.register_script(script_of(*names))

    def load(self) -> float:
        """Loads the script, and returns the Unix time by the clock of Redis, in one round trip.

        Raises RedisError.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.script_load(self._script.script)
        pipeline.time()
        with redis_errors(self._client):
            _, (seconds, microseconds) = pipeline.execute()
        return float(seconds + microseconds / 1e6)

    def run(self, arguments: Sequence[str | bytes | int]) -> list[str]:
        """Runs the script and returns its replies. Raises RedisError."""
        with redis_errors(self._client):
            replies = cast("list[bytes]", self._script(args=arguments))
        return [reply.decode(errors="replace") for reply in replies]


def is_wrong_type(answer: object) -> bool:
    """Tells whether a reply is the error WRONGTYPE: the key is of another type."""
    return isinstance(answer, redis.ResponseError) and "WRONGTYPE" in str(answer)


def answers_of(pipeline: Pipeline, *, keeps_denials: bool = False) -> list[Any]:
    """Runs a pipeline. Returns the replies, with None for each WRONGTYPE error.

    Raises the client's RedisError for other errors.

    keeps_denials: return a NoPermissionError instead of raising it.
    """
    answers = []
    for answer in pipeline.execute(raise_on_error=False):
        is_kept = keeps_denials and isinstance(answer, exceptions.NoPermissionError)
        is_error = isinstance(answer, Exception) and not is_kept
        if is_error and not is_wrong_type(answer):
            raise answer
        answers.append(None if is_error else answer)
    return answers


def require_acceptance(client: redis.Redis, *commands: Command) -> None:
    """Raises the client's RedisError if Redis would refuse one of the commands. Runs none of them.

    Redis checks permissions, its memory and its role before it runs a transaction.
    """
    with client.pipeline() as pipeline:
        add: Callable[..., object] = pipeline.execute_command
        for command in commands:
            add(*command)
        pipeline.exists()  # malformed, so that Redis executes nothing
        try:
            pipeline.execute()
        except redis.ResponseError as error:
            if "wrong number of arguments" not in str(error):
                raise


def permits(client: redis.Redis, *commands: Command) -> bool:
    """Tells whether our user may run these commands; runs none. Raises the client's RedisError."""
    try:
        require_acceptance(client, *commands)
    except exceptions.NoPermissionError:
        return False
    except redis.ResponseError:  # such as a Redis that is out of memory
        return True
    return True


def read_hashes(
    client: redis.Redis, keys: Iterable[str], fields: Sequence[str]
) -> list[list[bytes | None]]:
    """Reads the fields of each hash; all are None if the key is of another type."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, list(fields))
    return [row or [None] * len(fields) for row in answers_of(pipeline)]


def whole_number(text: bytes | None, *, signed: bool = False) -> int | None:
    """Parses a whole number; returns None for any other text, which other programs may write.

    signed: allow a minus sign.
    """
    digits = (text or b"").removeprefix(b"-" if signed else b"")
    return int(text) if text and digits.isdigit() and len(text) < _MOST_DIGITS else None


def text_of(value: bytes) -> str:
    """Decodes UTF-8, replacing malformed bytes."""
    return value.decode(errors="replace")


def optional_text_of(value: bytes | None) -> str | None:
    """Decodes a value; returns None if it is missing or empty."""
    return text_of(value) if value else None


def moment_of_timestamp(seconds: float) -> datetime | None:
    """Converts Unix time; returns None if the number is out of range."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None


def mapping_of(text: str | bytes | None) -> dict[str, str | int | bool | list[str]]:
    """Parses a JSON object; keeps only texts, integers, booleans and lists of texts.

    Returns an empty mapping for anything else, which other programs may have written.
    """
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, str | int)
        or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    }


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
            f"check its load: it has {LONGEST_TIMEOUT} s for each answer, or "
            "DOCORA_OPS_STATEMENT_TIMEOUT if that is shorter",
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
    if is_wrong_type(error):
        # A pipeline names it, `Command # 2 (HGETALL KEY) of …`, as does take.lua: `… value (KEY)`.
        key = re.search(r"\((?:[A-Z]+ )?([\w-]+:[^\s)]+)", text)
        return (
            f"has the wrong kind of value at {key[1] if key else 'one of our keys'}",
            "another program wrote it: rename the key, then repeat the command, part of which may "
            "have been done",
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
    """Returns why Redis refuses writes, and a hint; None for any other error."""
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
    """Tells whether waiting may help: the server is down, overloaded, or failing over."""
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
