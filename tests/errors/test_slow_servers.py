"""Servers that answer slowly, or hang."""

import re
import time

import pytest

from tests.support.diagnoses import ONE_LOOK, check, make_healthy, not_ok, states
from tests.support.docora import Docora
from tests.support.proxy import Proxy

LIMIT = 10
"""Seconds after which each look has ended."""


def proxied(docora: Docora, server: str) -> tuple[Proxy, dict[str, str]]:
    if server == "redis":
        proxy = Proxy.before_redis(docora.redis_url)
        return proxy, {"REDIS_URL": proxy.url}
    proxy = Proxy.before_postgres(docora.database_url)
    return proxy, {"DATABASE_URL": proxy.url}


@pytest.mark.slow
@pytest.mark.parametrize("server", ["redis", "postgres"])
def test_a_server_that_hangs_leaves_what_the_other_one_tells_within_ten_seconds(
    docora: Docora, server: str
) -> None:
    make_healthy(docora)
    proxy, environment = proxied(docora, server)
    with proxy:
        proxy.freeze()
        began = time.monotonic()
        result = docora.run("status", env=environment)
        assert time.monotonic() - began < LIMIT
    assert result.code == 5, result
    error, hint = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert hint.startswith("Hint: ")
    rows = re.findall(r"^\w+", result.stdout, re.MULTILINE)
    assert ("Links" in rows) == (server == "redis")
    assert ("Queue" in rows) == (server == "postgres")


@pytest.mark.slow
def test_a_slow_redis_is_named_with_its_latency_and_ends_no_look_late(docora: Docora) -> None:
    make_healthy(docora)
    proxy, environment = proxied(docora, "redis")
    with proxy:
        proxy.delay = 2.25  # each way
        began = time.monotonic()
        status = docora.run("status", "--json", env=environment)
        assert time.monotonic() - began < LIMIT
        assert (status.code, status.json["code"]) == (5, "redis")
        assert 4500 <= status.data["redis_latency_ms"] < 7000
        assert status.data["links_by_status"]["synced"] == 1

        doctor = docora.run("doctor", "--json", env=environment | ONE_LOOK, timeout=20)
        assert doctor.code == 5
        assert states(doctor)["latency"] == states(doctor)["redis"] == "critical"
        assert re.search(r"\b[45],\d{3} ms from Redis", check(doctor, "latency")["finding"])
        assert states(doctor)["tables"] == "ok"


@pytest.mark.slow
def test_a_redis_that_is_somewhat_slow_is_a_warning(docora: Docora) -> None:
    make_healthy(docora)
    proxy, environment = proxied(docora, "redis")
    with proxy:
        proxy.delay = 0.14
        doctor = docora.run("doctor", "--json", env=environment | ONE_LOOK)
        assert doctor.code == 0, doctor
        assert not_ok(doctor) == {"latency": "warning"}
        status = docora.run("status", env=environment)
        assert status.code == 0
        row = next(line for line in status.stdout.splitlines() if line.startswith("Redis"))
        assert re.search(r"/0, answers take [2-9]\d\d ms$", row)
    quick = docora.run("status")
    assert "answers take" not in quick.stdout
