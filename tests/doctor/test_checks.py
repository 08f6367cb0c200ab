"""What `doctor` makes of what it has seen."""

from typing import Any

import pytest

from docora_ops.actions.checks import (
    Check,
    CheckName,
    CheckState,
    check_clocks,
    check_postgres,
    check_redis,
    worst_of,
)
from docora_ops.actions.doctor import Diagnosis
from docora_ops.cli.doctor import summary
from docora_ops.database.postgres_server import Standby
from docora_ops.text import duration, seconds_of

HEALTHY = {
    "redis_version": "7.2.4",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "used_memory": 50,
    "maxmemory": 100,
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
}


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, {}),
        ({"redis_version": "6.0.16"}, {"redis_version": "critical"}),
        ({"redis_version": "6.2.0"}, {}),
        ({"redis_version": ""}, {}),
        ({"role": "slave"}, {"redis_primary": "critical"}),
        ({"maxmemory_policy": "volatile-lru"}, {"redis_eviction": "critical"}),
        ({"maxmemory_policy": None}, {}),
        ({"used_memory": 79}, {}),
        ({"used_memory": 80}, {"redis_memory": "warning"}),
        ({"used_memory": 95}, {"redis_memory": "critical"}),
        ({"maxmemory": 0, "used_memory": 10**12}, {}),
        ({"rdb_last_bgsave_status": "err"}, {"redis_persistence": "critical"}),
        ({"aof_last_write_status": "err"}, {"redis_persistence": "critical"}),
    ],
)
def test_redis(info: dict[str, Any], expected: dict[str, str]) -> None:
    checks = check_redis(HEALTHY | info)
    assert {each.name: each.state for each in checks if each.state != "ok"} == expected


def test_valkey_is_called_by_its_own_name() -> None:
    first, *_ = check_redis(HEALTHY | {"valkey_version": "9.1.2"})
    assert first.finding == "Valkey 9.1.2"


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (("16.4 (Debian 16.4-1)", None), ["ok", "ok"]),
        (("14.0", None), ["ok", "ok"]),
        (("13.9", None), ["critical", "ok"]),
        (("16.4", Standby(0, None)), ["ok", "critical"]),
    ],
)
def test_postgres(server: tuple[str, Standby | None], expected: list[str]) -> None:
    assert [check.state for check in check_postgres(*server)] == expected


@pytest.mark.parametrize(
    ("ahead", "state", "finding"),
    [
        ({"Postgres": 4.0, "Redis": -1.0}, "ok", "this host, Postgres, Redis and 0 workers agree"),
        ({"Postgres": 0.0, "Redis": -10.0}, "warning", "this host is 10 s ahead of Redis"),
        ({"Postgres": 600.0}, "critical", "Postgres is 600 s ahead of this host"),
    ],
)
def test_clocks(ahead: dict[str, float], state: str, finding: str) -> None:
    check = check_clocks(ahead, ())
    assert (check.state, finding in check.finding) == (state, True), check


def test_ages_are_short_and_can_be_typed() -> None:
    shown = dict(
        line.split()
        for line in """
        -3 0s, 59 59s, 119 1m59s, 120 2m, 599 9m59s, 600 10m, 3599 59m, 3600 1h, 3659 1h, 7199 1h59m
        36059 10h, 86399 23h, 86460 1d, 90059 1d1h, 200000 2d7h, 900000 10d, 9999999999999 11574d
        """.replace("\n", ",").split(",")
        if line.strip()
    )
    assert {seconds: duration(int(seconds)) for seconds in shown} == shown
    assert [seconds_of(duration(each)) for each in (59, 119, 3600, 7199)] == [59, 119, 3600, 7140]


def test_the_worst_check_is_what_counts() -> None:
    for found, worst, sentence in (
        ("ok ok", "ok", "All is well."),
        ("warning not_checked warning", "warning", "2 warnings, 1 not checked."),
        ("critical warning ok", "critical", "1 critical, 1 warning."),
    ):
        checks = [Check(CheckName.SETTINGS, "found", state=CheckState(x)) for x in found.split()]
        diagnosis = Diagnosis(worst_of(checks), checks, None)
        assert (diagnosis.state, summary(diagnosis)) == (worst, sentence)
