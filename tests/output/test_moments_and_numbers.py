"""Moments and numbers that are none, or that no calendar has."""

import zlib
from typing import Any

import pytest

from tests.support.docora import QUEUE, Docora
from tests.support.hostile_texts import RAW

AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}
HUGE = "9" * 5000
"""More digits than Python makes a number of."""
CHANGE: dict[Any, Any] = {"event": "done", "who": "a", "command": "b"}
LAST = "9999-12-31T23:59:59.999Z"


def test_a_moment_beyond_all_years_is_shown_as_the_last_there_is(docora: Docora) -> None:
    link = docora.add_link()
    docora.connection.execute("UPDATE repositories SET circuit_open_until = 'infinity'")
    docora.connection.execute("UPDATE app_repositories SET created_at = '20000-01-01'")
    data = docora.run("show", *link.ids, "--json").data
    assert (data["circuit_open_until"], data["created_at"]) == (LAST, LAST)
    assert docora.run("failed").code == 0
    assert docora.run("retry", *link.ids).code == 0


def test_an_infinite_time_of_a_scan_costs_no_list(docora: Docora) -> None:
    """Postgres 16 and older can't tell how long ago that is."""
    for number, moment in enumerate(("-infinity", "infinity")):
        link = docora.add_link(last_error=f"HTTP 50{number}")
        docora.set_link(link, last_scanned_at=moment)
    for command in ("failed", "failed --group-by error", "apps", "links --overdue", "status"):
        result = docora.run(*command.split(), env=AT_ONCE)
        assert (result.code, result.stdout != "") == (0, True), result
    assert docora.run("show", *link.ids).code == 0


@pytest.mark.slow
def test_what_is_no_number_in_redis_costs_only_itself(docora: Docora) -> None:
    link = docora.add_link()
    redis = docora.redis
    redis.hset(
        f"rq:job:{link.job_id}",
        mapping={
            "status": "failed",
            "origin": QUEUE,
            "retries_left": HUGE,
            "created_at": HUGE,
            "started_at": "9999-12-31T23:59:59.999999Z",
            "enqueued_at": "0001-01-01T00:00:00Z",
        },
    )
    redis.set(f"rq:results:{link.job_id}", "of another type")
    redis.zadd(f"rq:failed:{QUEUE}", {link.job_id: "inf"})
    redis.zadd(f"rq:scheduled:{QUEUE}", {"early": "-inf", "late": 1e300})
    redis.hset(
        "docora:bulk:odd",
        mapping={"total": HUGE, "completed": RAW, "succeeded": "-1", "failed": "1e5"},
    )
    redis.hset(
        "docora-ops:operation:odd:record",
        mapping={"total": HUGE, "failures": zlib.compress(b"[" * 100_000), "failed_links": RAW},
    )
    for counts, selection in (
        (f'{{"total": {HUGE}}}', "[" * 100_000),
        ('{"total": NaN, "x": 1e999}', f'{{"a": {HUGE[:4000]}}}'),
    ):
        redis.xadd("docora-ops:audit", CHANGE | {"counts": counts, "selection": selection})
    last = "18446744073709551615-1"
    redis.xadd("docora-ops:audit", CHANGE, id=last)
    for arguments in (
        ("show", *link.ids),
        *(("queue",), ("operations",), ("operations", "odd"), ("history",), ("failed",)),
        *(("repair", "--dry-run"), ("doctor",), ("metrics",)),
    ):
        docora.run(*arguments, env=AT_ONCE).ended(6 if arguments == ("doctor",) else 0)
