"""Connects to Redis."""

import ssl
from collections.abc import Mapping
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from docora_ops.errors import ConfigurationError
from docora_ops.settings import Settings

ROWS_LOCKED_TIMEOUT = 4  # seconds for a reply while we lock rows: Docora may wait for these rows


def connect(settings: Settings) -> redis.Redis:
    """Returns a client for `REDIS_URL`, which connects on its first command.

    The client never repeats a command, because a push whose reply was lost may have succeeded.
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
            socket_connect_timeout=settings.connect_timeout,
            socket_timeout=settings.statement_timeout,
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


def client_for_locked_rows(client: redis.Redis) -> redis.Redis:
    """Returns a client of the same server with timeouts of at most 4 s."""
    pool = client.connection_pool
    options = dict(pool.connection_kwargs)
    for name in ("socket_timeout", "socket_connect_timeout"):
        options[name] = min(options.get(name) or ROWS_LOCKED_TIMEOUT, ROWS_LOCKED_TIMEOUT)
    pool = redis.ConnectionPool(connection_class=pool.connection_class, **options)
    return redis.Redis(connection_pool=pool)


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
