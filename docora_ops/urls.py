"""Adapts Docora's URLs to our drivers: node-pg and ioredis know further options."""

from __future__ import annotations

from collections.abc import Mapping, Set

_AS_LIBPQ = {
    "sslmode=no-verify": "sslmode=require",
    "ssl=no-verify": "sslmode=require",
    "ssl=true": "sslmode=require",
    "ssl=1": "sslmode=require",
    "ssl=false": "sslmode=disable",
    "ssl=0": "sslmode=disable",
    "uselibpqcompat=true": "",
    "uselibpqcompat=false": "",
}
"""Options of node-pg, and what means the same to libpq."""

# Names that are not listed are refused: they may be misspelt, or be a part of a password.
_ONLY_NODE_PG = frozenset(
    {"allowExitOnIdle", "binary", "connectionTimeoutMillis", "enableChannelBinding"}
    | {"idleTimeoutMillis", "idle_in_transaction_session_timeout", "keepAlive", "lock_timeout"}
    | {"keepAliveInitialDelayMillis", "max", "maxLifetimeSeconds", "maxUses", "min", "poolSize"}
    | {"query_timeout", "statement_timeout"}
    # Options of Prisma, which node-pg takes and ignores.
    | {"connection_limit", "pgbouncer", "pool_timeout", "schema"}
)
_ONLY_IOREDIS = frozenset(
    {"allowUsernameInURI", "autoResendUnfulfilledCommands", "autoResubscribe", "blockingTimeout"}
    | {"clientInfoTag", "commandTimeout", "connectTimeout", "connectionName", "disableClientInfo"}
    | {"disconnectTimeout", "enableAutoPipelining", "enableOfflineQueue", "enableReadyCheck"}
    | {"keepAlive", "lazyConnect", "maxLoadingRetryTime", "maxRetriesPerRequest", "noDelay"}
    | {"readOnly", "showFriendlyErrorStack", "socketTimeout", "stringNumbers"}
)


def adapt_postgres_url(url: str) -> tuple[str, list[str]]:
    """Returns the URL for libpq, and the names of the options that were left out."""
    return _adapt(url, _AS_LIBPQ, _ONLY_NODE_PG)


def adapt_redis_url(url: str) -> tuple[str, list[str]]:
    """Returns the URL for redis-py, and the names of the options that were left out."""
    return _adapt(url, {}, _ONLY_IOREDIS)


def _adapt(url: str, replaced: Mapping[str, str], foreign: Set[str]) -> tuple[str, list[str]]:
    start, _, query = url.partition("?")
    options = [replaced.get(option, option) for option in query.split("&")]
    names = [option.partition("=")[0] for option in options]
    kept = "&".join(
        option
        for option, name in zip(options, names, strict=True)
        if option and name not in foreign
    )
    return start + (f"?{kept}" if kept else ""), [name for name in names if name in foreign]
