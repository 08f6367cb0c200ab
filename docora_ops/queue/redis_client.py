"""Connecting to Redis, and turning its errors into ours."""

import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.commands.core import Script
from redis.retry import Retry

from docora_ops.errors import ConfigurationError, RedisDeniedError, RedisError
from docora_ops.settings import Settings, adapt_redis_url
from docora_ops.text import mask

ROWS_LOCKED_TIMEOUT = 4
"""Seconds for an answer of Redis while rows are locked in Postgres: Docora waits for those rows."""

_OUR_OPTIONS = frozenset({"client_name", "decode_responses", "family", "protocol"})
_FAMILIES = {"0": socket.AF_UNSPEC, "4": socket.AF_INET, "6": socket.AF_INET6}
_REFUSED_OPTIONS = frozenset({"encoding", "encoding_errors", "retry", "retry_on_error"})


def connect(settings: Settings) -> redis.Redis:
    """Returns a client for `REDIS_URL`; it connects at its first command.

    It never sends a command again: a push whose reply was lost may have been done.
    Raises ConfigurationError if the URL is unusable.
    """
    try:
        url, _ = adapt_redis_url(settings.redis_url.get_secret_value())
        url, family = _without_our_options(url)
        client = redis.Redis.from_url(
            url,
            client_name="docora-ops",
            driver_info=None,  # or each connection begins with two more commands to be permitted
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            # After a failover the next command must connect anew: a name may lead elsewhere then.
            retry_on_error=[exceptions.ReadOnlyError, exceptions.MasterDownError],
            socket_connect_timeout=settings.connect_timeout,
            socket_timeout=settings.statement_timeout,
            **({"socket_type": family} if family else {}),  # the client's name for it
        )
        # An unknown option in the URL shows only when a connection is made from it.
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
        str(pool.connection_kwargs.get("host", "")).encode("idna")  # as the look-up does
        if issubclass(pool.connection_class, redis.SSLConnection):
            # Without one, OpenSSL asks the terminal for the password of an encrypted key.
            pool.connection_kwargs.setdefault("ssl_password", "")
    except (ValueError, TypeError, LookupError, AttributeError, OSError, redis.RedisError):
        raise ConfigurationError(
            "REDIS_URL is not a URL that the Redis client understands",
            hint="use redis://USER:PASSWORD@HOST:PORT/DB, rediss://… or unix:///PATH; "
            "percent-encode special characters in the password",
        ) from None
    if problem := _unusable_file(pool.connection_kwargs):
        hint = "correct it in REDIS_URL, or the file"
        raise ConfigurationError(f"REDIS_URL can't be used: {problem}", hint=hint)
    return client


def with_rows_locked(client: redis.Redis) -> redis.Redis:
    """Returns a client of the same server for calls that are made while rows are locked."""
    pool = client.connection_pool
    options = dict(pool.connection_kwargs)
    for name in ("socket_timeout", "socket_connect_timeout"):
        options[name] = min(options.get(name) or ROWS_LOCKED_TIMEOUT, ROWS_LOCKED_TIMEOUT)
    return redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **options)
    )


def prepare(client: redis.Redis, script: Script) -> None:
    """Connects and loads the script, which takes several answers, before rows are locked.

    `client`: one of `with_rows_locked`. Raises RedisError.
    """
    with redis_errors(client, rows_locked=True):
        client.script_load(script.script)


def latency(client: redis.Redis) -> float:
    """Returns the seconds that one answer takes, measured on a connection without a login.

    A slow server would take several answers for that. Raises RedisError.
    """
    pool = client.connection_pool
    login = {"username", "password", "credential_provider", "client_name", "db"}
    options = {name: value for name, value in pool.connection_kwargs.items() if name not in login}
    with redis.ConnectionPool(connection_class=pool.connection_class, **options) as own:
        probe = redis.Redis(connection_pool=own)
        with redis_errors(client):
            own.release(own.get_connection())
            began = time.monotonic()
            with suppress(exceptions.AuthenticationError, exceptions.ResponseError):
                probe.ping()  # a refusal is an answer, too
            return time.monotonic() - began


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


def _without_our_options(url: str) -> tuple[str, int]:
    """Returns the URL without options that the client would take over our own, and the family.

    `family` is an option of ioredis: 4 and 6 stand for IPv4 and IPv6, and 0 for either. The
    database in the path wins over the option `db`, as in ioredis: the client takes the option.
    """
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    has_database = parts.scheme != "unix" and parts.path.strip("/") != ""
    left_out = _OUR_OPTIONS | ({"db"} if has_database else set())
    if not _REFUSED_OPTIONS.isdisjoint(name for name, _ in options):
        raise ValueError("an option that only the client itself can use")
    kept = urlencode([(name, value) for name, value in options if name not in left_out])
    family = _FAMILIES[dict(options).get("family", "0")]
    # Not urlunsplit, which drops the empty host of unix:///path.
    return url.partition("?")[0] + (f"?{kept}" if kept else ""), family


def describe(client: redis.Redis) -> str:
    """Names the server and the database of a client, without user or password."""
    options = client.connection_pool.connection_kwargs
    database = options.get("db", 0)
    if "path" in options:
        return f"{options['path']}, database {database}"
    host = options.get("host", "localhost")
    return f"{f'[{host}]' if ':' in host else host}:{options.get('port', 6379)}/{database}"


@contextmanager
def redis_errors(client: redis.Redis, *, rows_locked: bool = False) -> Iterator[None]:
    """Raises an error of the client inside the block as RedisError, with a sentence and a hint.

    A refused login or privilege is a RedisDeniedError.
    `rows_locked`: the client is one of `with_rows_locked`.
    """
    try:
        yield
    except redis.RedisError as error:
        message, hint = _explain(error, client)
        if rows_locked and hint == _SLOW[1]:
            # A longer timeout of ours would not help.
            hint = f"it has {ROWS_LOCKED_TIMEOUT} s while links are locked: check its load"
        is_denied = isinstance(error, _LOGIN_ERRORS) or _lacks_permission(error)
        kind = RedisDeniedError if is_denied else RedisError
        raise kind(f"Redis at {describe(client)} {message}", hint=hint) from error


_Explanation = tuple[str, str]
"""A sentence and a hint."""
_CREDENTIALS = (
    "refuses our user or password",
    "check the credentials in REDIS_URL; a Redis without an ACL file forgets its users when it "
    "restarts: docora-ops help privileges says how to keep them",
)
_SLOW: _Explanation = (
    "did not answer in time",
    "check its load, or raise DOCORA_OPS_STATEMENT_TIMEOUT",
)
_CLUSTER: _Explanation = (
    "is a node of a Cluster, which spreads its keys over several servers",
    "point REDIS_URL at a Redis or Valkey without cluster-enabled: RQ needs one server",
)
# An error inside a script arrives as a plain ResponseError, most often with the code in its text.
_REFUSES_WRITES: dict[str, _Explanation] = {
    "OOM": ("refuses writes: it is out of memory", "free memory or raise maxmemory"),
    "READONLY": (
        "refuses writes: it is a read-only replica",
        "point REDIS_URL at the primary; if this replica takes over, try again once it is promoted",
    ),
    "MISCONF": ("refuses writes: it can't save its data to disk", "see Redis's log"),
    "NOREPLICAS": (
        "refuses writes: it has fewer connected replicas than min-replicas-to-write asks for",
        "bring its replicas back, or lower min-replicas-to-write",
    ),
}
_BY_CODE: dict[str, _Explanation] = _REFUSES_WRITES | {
    "UNBLOCKED": ("became a replica while a command waited", "try again in a moment"),
    "BUSY": (
        "answers no command: it has been busy with one script for too long",
        "wait for the script's end, or end it with: redis-cli SCRIPT KILL",
    ),
    "DB index is out of range": (
        "has no database of the number in REDIS_URL",
        "check the number at the end of REDIS_URL",
    ),
    "WRONGTYPE": (
        "holds a value of the wrong type in one of the queue's keys",
        "check that REDIS_URL names the Redis of Docora",
    ),
}


_ADD_CERTIFICATE = "add ssl_certfile and ssl_keyfile to REDIS_URL"
_CHECK_CERTIFICATE = "check that ssl_certfile in REDIS_URL comes from a CA that Redis trusts"

_LOGIN_ERRORS = (exceptions.AuthenticationError, exceptions.AuthorizationError)
_BY_KIND = (
    (
        exceptions.MasterDownError,
        (
            "is a replica without a primary, and answers nothing",
            "point REDIS_URL at the primary, or try again once the replica is promoted",
        ),
    ),
    (_LOGIN_ERRORS, _CREDENTIALS),
    (exceptions.TimeoutError, _SLOW),
    (exceptions.OutOfMemoryError, _REFUSES_WRITES["OOM"]),
    (exceptions.ReadOnlyError, _REFUSES_WRITES["READONLY"]),
    (exceptions.ClusterError, _CLUSTER),
    (exceptions.ClusterCrossSlotError, _CLUSTER),
    (exceptions.AskError, _CLUSTER),  # and MovedError, its subclass
    (exceptions.BusyLoadingError, ("is still loading its data", "try again in a moment")),
)


def _explain(error: redis.RedisError, client: redis.Redis) -> _Explanation:
    text = str(error)
    if isinstance(error, exceptions.TimeoutError) and "connecting" in text:
        # A server without TLS waits for the rest of what it takes for a command.
        with_tls = issubclass(client.connection_pool.connection_class, redis.SSLConnection)
        hint = "use redis:// if it does not speak TLS; " if with_tls else ""
        return "can't be reached: connecting timed out", f"{hint}check REDIS_URL and the network"
    for kind, explanation in _BY_KIND:
        if isinstance(error, kind):
            return explanation
    if isinstance(error, redis.ConnectionError):
        if isinstance(error.__cause__, TimeoutError):
            return "did not answer in time", "check REDIS_URL and the network"
        options = client.connection_pool.connection_kwargs
        has_tls = issubclass(client.connection_pool.connection_class, redis.SSLConnection)
        if refusal := _refused_certificate(error):
            return refusal
        if "connecting to" in text:
            return _unreachable(error, options)
        hint = "check that it runs, and its log"
        if has_tls:  # a server that resets the connection takes its alert away
            asks = f"if it asks for a client certificate, {_ADD_CERTIFICATE}"
            hint += f"; {_CHECK_CERTIFICATE if options.get('ssl_certfile') else asks}"
        return "broke the connection", hint
    if _lacks_permission(error):
        return _no_permission(text)
    # In a script, a Cluster has a sentence of its own for each reason not to serve a key.
    if "cluster" in text or "hash to the same slot" in text:
        return _CLUSTER
    if found := _find_code(_BY_CODE, text):
        return found
    # Redis repeats the arguments of an unknown command, which may hold a password.
    text = text.partition(", with args beginning with")[0].splitlines()[0] if text else "no text"
    return f"answered with an error: {mask(text)[:200]}", "see Redis's log"


def _unreachable(error: BaseException, options: Mapping[str, Any]) -> _Explanation:
    """Explains a failure to connect by the system's error that caused it.

    The texts of the client are not shown.
    """
    hint = "check that it runs, and REDIS_URL"
    host = options.get("host", "localhost")
    if problem := _unusable_file(options):  # since the start
        return f"can't be reached: {problem}", "correct it in REDIS_URL, or the file"
    match cause := _system_error(error):
        case ssl.SSLCertVerificationError():
            reason = f"its TLS certificate is refused: {cause.verify_message}"
            hint = "check the host in REDIS_URL, and ssl_ca_certs"
        case ssl.SSLError():
            reason = f"TLS failed: {(cause.reason or 'no reason').lower().replace('_', ' ')}"
            hint = "use redis:// if it does not speak TLS"
            if "HANDSHAKE_FAILURE" in str(cause.reason) and not options.get("ssl_certfile"):
                hint = f"if it asks for a client certificate, {_ADD_CERTIFICATE}"
        case socket.gaierror(errno=socket.EAI_AGAIN):
            reason = f"the name {host} can't be looked up at present"
            hint = "check the host in REDIS_URL, and the name server"
        case socket.gaierror():
            reason = f"no host named {host}"
            hint = "check the host in REDIS_URL"
        case OSError(errno=int(number)):
            reason = os.strerror(number).lower()
        case _:
            reason = "the connection failed"
    return f"can't be reached: {reason}", hint


def _refused_certificate(error: BaseException) -> _Explanation | None:
    """Explains a TLS alert about our certificate. Returns None for any other error.

    In TLS 1.3 the alert arrives only after the client has finished its own handshake.
    """
    cause = _system_error(error)
    alert = str(cause.reason) if isinstance(cause, ssl.SSLError) else ""
    if "ALERT_CERTIFICATE_REQUIRED" in alert:
        return "asks for a client certificate", _ADD_CERTIFICATE
    if found := re.search(r"ALERT_(UNKNOWN_CA|\w*CERTIFICATE\w*)", alert):
        reason = found[1].lower().replace("_", " ").replace(" ca", " CA")
        return f"refuses our client certificate: {reason}", _CHECK_CERTIFICATE
    return None


def _unusable_file(options: Mapping[str, Any]) -> str | None:
    """Says which file of the TLS options can't be used, and why. Returns None if all can."""
    names = ("ca_certs", "certfile", "keyfile")
    authorities, certificate, key = (options.get(f"ssl_{name}") for name in names)
    if key and not certificate:
        return "ssl_keyfile needs ssl_certfile, the certificate that belongs to the key"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    what = f"the file of ssl_ca_certs, {authorities},"
    try:
        if authorities:
            context.load_verify_locations(authorities)
        what = f"ssl_certfile={certificate}" + (f" with ssl_keyfile={key}" if key else "")
        if certificate:
            # Without a password, OpenSSL asks the terminal for that of an encrypted key.
            context.load_cert_chain(certificate, key, options.get("ssl_password") or "")
    except ssl.SSLError as error:
        reason = error.reason.replace("_", " ").lower() if error.reason else "not in PEM format"
        return f"{what} can't be used: {reason}"
    except OSError as error:
        return f"{what} can't be used: {(error.strerror or 'no reason').lower()}"
    return None


def _system_error(error: BaseException) -> OSError | None:
    """Returns the system's error that caused an error of the client."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def explain_refused_write(text: str) -> tuple[str, str] | None:
    """Returns why Redis takes no writes, and what to do; None if the answer says something else."""
    return _find_code(_REFUSES_WRITES, text)


def is_outage(error: redis.RedisError) -> bool:
    """Tells whether the server may answer later: it is away, overloaded, or fails over."""
    if isinstance(error, _LOGIN_ERRORS):
        return False  # although the client takes them for errors of the connection
    refusals = (exceptions.ReadOnlyError, exceptions.MasterDownError, exceptions.OutOfMemoryError)
    return isinstance(error, (redis.ConnectionError, redis.TimeoutError, *refusals)) or bool(
        re.search(r"\b(READONLY|UNBLOCKED|NOREPLICAS|MISCONF|OOM|BUSY)\b", str(error))
    )


def _find_code(explanations: Mapping[str, _Explanation], text: str) -> _Explanation | None:
    found = (known for code, known in explanations.items() if re.search(rf"\b{code}\b", text))
    return next(found, None)


def _lacks_permission(error: redis.RedisError) -> bool:
    text = str(error)
    is_denied = isinstance(error, exceptions.NoPermissionError)
    return is_denied or "NOPERM" in text or "ACL failure in script" in text


def _no_permission(text: str) -> _Explanation:
    # Redis names the command, yet never the key or channel.
    command = re.search(r"to run the '([\w|-]+)' command", text)
    what = f"the command {command[1]}" if command else "one of our keys or channels"
    return (
        f"does not permit {what} to our user",
        "docora-ops help privileges lists what the user in REDIS_URL needs",
    )
