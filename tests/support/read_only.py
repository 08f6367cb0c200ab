"""Checks that a command writes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tests.support.docora import Docora


def expiry(client: redis.Redis, key: str) -> object:
    """Returns when the key expires; for Redis 6, which does not tell, only whether it does."""
    try:
        return client.pexpiretime(key)
    except redis.ResponseError:
        return client.pttl(key) > 0


@contextmanager
def frozen(docora: Docora) -> Iterator[None]:
    def state() -> Any:
        tables, keys = docora.dump()
        return tables, keys, {key: expiry(docora.redis, key.decode()) for key in keys}

    before = state()
    yield
    assert state() == before


def read_only(docora: Docora) -> dict[str, str]:
    """Settings with which Postgres refuses every write, and to lock a row."""
    mark = "&" if "?" in docora.database_url else "?"
    option = "options=-c%20default_transaction_read_only%3Don"
    return {"DATABASE_URL": f"{docora.database_url}{mark}{option}"}
