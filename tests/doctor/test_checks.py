"""What `doctor` makes of what it has seen."""

from typing import Any

import pytest

from docora_ops.actions.diagnose import check_postgres, check_redis
from docora_ops.database.postgres_server import PostgresServer
from docora_ops.diagnosis import Check, CheckName, CheckState, Diagnosis
from docora_ops.overview import Standby
from docora_ops.queue.redis_server import RedisServer
from docora_ops.render.drift_view import summary
from docora_ops.text import duration

NOW = 1_800_000_000.0
HEALTHY = {
    "redis_version": "7.2.4",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "used_memory": 50,
    "maxmemory": 100,
    "total_system_memory": 1000,
    "aof_enabled": 0,
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "rdb_last_save_time": int(NOW) - 60,
    "rdb_changes_since_last_save": 7,
    "uptime_in_seconds": 86_400,
}


def of_redis(**info: Any) -> dict[str, tuple[CheckState, str]]:
    checks = check_redis(RedisServer.from_info(HEALTHY | info, NOW))
    return {check.name: (check.state, check.finding) for check in checks}


def states(found: dict[str, tuple[CheckState, str]]) -> dict[str, CheckState]:
    return {name: state for name, (state, _) in found.items() if state is not CheckState.OK}


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, {}),
        ({"redis_version": "5.0.14"}, {"redis_version": CheckState.CRITICAL}),
        ({"redis_version": "6.0.16"}, {"redis_version": CheckState.CRITICAL}),
        ({"redis_version": "6.2.0"}, {}),
        ({"redis_version": ""}, {"redis_version": CheckState.NOT_CHECKED}),
        ({"role": "slave"}, {"redis_primary": CheckState.CRITICAL}),
        ({"maxmemory_policy": "volatile-lru"}, {"redis_eviction": CheckState.CRITICAL}),
        ({"maxmemory_policy": None}, {"redis_eviction": CheckState.NOT_CHECKED}),
        ({"used_memory": 79}, {}),
        ({"used_memory": 80}, {"redis_memory": CheckState.WARNING}),
        ({"used_memory": 95}, {"redis_memory": CheckState.CRITICAL}),
        ({"maxmemory": 0, "used_memory": 700}, {}),
        ({"maxmemory": 0, "used_memory": 970}, {"redis_memory": CheckState.CRITICAL}),
        ({"maxmemory": 0, "total_system_memory": 0}, {}),
        ({"rdb_last_bgsave_status": "err"}, {"redis_persistence": CheckState.CRITICAL}),
        (
            {"aof_enabled": 1, "aof_last_write_status": "err"},
            {"redis_persistence": CheckState.CRITICAL},
        ),
        ({"rdb_last_save_time": int(NOW) - 86_400}, {"redis_persistence": CheckState.WARNING}),
        ({"rdb_last_save_time": int(NOW) - 86_400, "aof_enabled": 1}, {}),
        ({"rdb_last_save_time": int(NOW) - 86_400, "rdb_changes_since_last_save": 0}, {}),
        ({"rdb_last_save_time": int(NOW) - 600, "uptime_in_seconds": 600}, {}),
    ],
)
def test_redis(info: dict[str, Any], expected: dict[str, CheckState]) -> None:
    assert states(of_redis(**info)) == expected


def test_a_redis_that_tells_next_to_nothing_breaks_nothing() -> None:
    checks = check_redis(RedisServer.from_info({}, NOW))
    assert [check.state for check in checks if check.state is CheckState.CRITICAL] == []


def test_valkey_is_called_by_its_own_name() -> None:
    assert of_redis(valkey_version="9.1.2")["redis_version"][1] == "Valkey 9.1.2"


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (PostgresServer("16.4", 160004), ["ok", "ok"]),
        (PostgresServer("14.0", 140000), ["ok", "ok"]),
        (PostgresServer("13.9", 130009), ["critical", "ok"]),
        (
            PostgresServer("16.4", 160004, standby=Standby(0, None)),
            ["ok", "critical"],
        ),
    ],
)
def test_postgres(server: PostgresServer, expected: list[str]) -> None:
    assert [check.state for check in check_postgres(server)] == expected


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (119, "1 min"),
        (7199, "1 h 59 min"),
        (7200, "2 h 0 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("found", "worst", "sentence"),
    [
        (["ok", "ok"], "ok", "All is well."),
        (["ok", "warning"], "warning", "1 warning."),
        (["warning", "not_checked", "warning"], "warning", "2 warnings, 1 not checked."),
        (
            ["critical", "warning", "not_checked"],
            "critical",
            "1 critical, 1 warning, 1 not checked.",
        ),
        (["critical", "critical", "ok"], "critical", "2 critical."),
    ],
)
def test_the_worst_check_is_what_counts(found: list[str], worst: str, sentence: str) -> None:
    checks = [Check(CheckName.SETTINGS, "found", state=CheckState(state)) for state in found]
    diagnosis = Diagnosis(checks, None)
    assert (diagnosis.state, summary(diagnosis)) == (worst, sentence)
