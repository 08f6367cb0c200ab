"""What the two servers know of us, searched through for what they must not."""

import base64
import pickle
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from tests.support.docora import Docora

# Arguments of a job that may hold a secret: two encrypted ones, and URLs as Docora has them.
_MAY_HOLD = {"github_token_encrypted", "client_auth_key_encrypted", "github_url", "base_url"}


def redis_texts(docora: Docora, *, but: bytes = b"\0") -> Iterator[bytes]:
    """All that is in Redis, packed and unpacked, but for such arguments, and some keys."""
    client = docora.redis
    for key in cast("list[bytes]", client.keys()):
        if key.startswith(but):
            continue
        yield key
        value = docora.content(key)
        if key.startswith(b"rq:job:") and b"data" in value:
            data = value.pop(b"data")
            with suppress(zlib.error):  # RQ compresses the data of a job that it saves again
                data = zlib.decompress(data)
            function, _, arguments, named = pickle.loads(data)
            named = {name: each for name, each in named.items() if name not in _MAY_HOLD}
            yield repr((function, arguments, named)).encode()
        yield from _unpacked(value)


def _unpacked(value: Any) -> Iterator[bytes]:
    """Every string in a value, and what it is when it is decompressed."""
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list | tuple | set):
        for each in value:
            yield from _unpacked(each)
    elif isinstance(value, bytes):
        yield value
        with suppress(ValueError, zlib.error):
            yield zlib.decompress(value)
        with suppress(ValueError, zlib.error):
            yield zlib.decompress(base64.b64decode(value))


@contextmanager
def watching_sessions(docora: Docora) -> Iterator[list[str]]:
    """What Postgres shows of its sessions to everybody, whenever a link is changed meanwhile."""
    docora.connection.execute("CREATE TABLE seen (text text)")
    docora.add_trigger(
        "INSERT INTO public.seen SELECT concat_ws(' ', usename, application_name, query)"
        " FROM pg_stat_activity WHERE datname = current_database()",
        name="look",
    )
    docora.connection.execute("ALTER FUNCTION look SECURITY DEFINER")
    seen: list[str] = []
    yield seen
    seen += [row["text"] for row in docora.connection.execute("SELECT DISTINCT text FROM seen")]
