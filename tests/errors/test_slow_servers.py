"""A server that hangs."""

import re
import time

import pytest

from tests.support.diagnoses import make_healthy
from tests.support.docora import Docora
from tests.support.proxy import Proxy


@pytest.mark.slow
@pytest.mark.parametrize("server", ["redis", "postgres"])
def test_a_server_that_hangs_leaves_what_the_other_one_tells_within_ten_seconds(
    docora: Docora, server: str
) -> None:
    make_healthy(docora)
    before = Proxy.before_redis if server == "redis" else Proxy.before_postgres
    variable = "REDIS_URL" if server == "redis" else "DATABASE_URL"
    with before(docora.redis_url if server == "redis" else docora.database_url) as proxy:
        proxy.freeze()
        began = time.monotonic()
        result = docora.run("status", env={variable: proxy.url})
        assert time.monotonic() - began < 10
    assert result.code == 5, result
    assert re.fullmatch("Error: .*\nHint: .*\n", result.stderr)
    rows = re.findall(r"^\w+", result.stdout, re.MULTILINE)
    assert ("Links" in rows, "Queue" in rows) == (server == "redis", server == "postgres")
