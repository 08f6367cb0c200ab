"""`docora-ops doctor`.

WRITE_TRANSCRIPTS=1 writes the screens of now into the files beside this one instead.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from rq.utils import now

from docora_ops.actions.doctor import Diagnosis, diagnose
from tests.support.bullmq import WORKER_NAME
from tests.support.diagnoses import (
    ALL,
    DETAILS_OF_POSTGRES,
    DETAILS_OF_REDIS,
    OF_BOTH,
    OF_LINKS,
    OF_QUEUE,
    ONE_LOOK,
    check,
    examine,
    make_healthy,
    not_ok,
    states,
)
from tests.support.docora import QUEUE, Docora, finish
from tests.support.own_servers import OwnRedis
from tests.support.proxy import Fault, Proxy, eventually, refused_port
from tests.support.read_only import frozen
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN
from tests.support.snapshots import encrypt
from tests.support.terminal import at_terminals, plain_data

APPS = ("Acme Search", "Paper Lantern", "Quiet Harbor", "Tin Robot Notes", "Maple Review")
LONG_AGO = "2026-01-01T00:00:00.000000Z"


@pytest.fixture
def spoiled(docora: Docora, own: OwnRedis) -> Iterator[Docora]:
    """The same Docora, with a Redis that may be spoiled."""
    docora = replace(docora, redis_access=own.access)
    yield docora
    docora.close()


@pytest.mark.parametrize(
    ("until", "days", "state"), [("null", 6, "ok"), ("null", 8, "warning"), ("9000000000", 8, "ok")]
)
def test_held_apps_are_named_and_a_hold_for_ever_may_be_forgotten(
    docora: Docora, until: str, days: int, state: str
) -> None:
    make_healthy(docora)
    docora.redis.hset("rq:worker:worker-1", "obeys_holds", 1)
    app_id = docora.add_app("Quiet Harbor")
    docora.link(app_id, docora.add_repository(), "synced", scanned=timedelta(days=days))
    since = int(time.time()) - days * 86_400
    docora.redis.hset("docora-ops:holds", app_id, f'{{"since": {since}, "until": {until}}}')
    result = examine(docora)
    found = check(result, "freshness")
    assert (result.code, found["state"]) == (0, state), result
    assert "Quiet Harbor is held" in found["finding"]
    said = {"ok": "All is well; Quiet Harbor is held.\n", "warning": "1 warning.\n"}
    assert result.stderr == said[state]


def test_all_is_well_as_prescribed_and_nothing_is_written(spoiled: Docora, own: OwnRedis) -> None:
    make_healthy(spoiled)
    with frozen(spoiled):
        document, short, table = (
            spoiled.run("doctor", *options, env=ONE_LOOK) for options in (["--json"], [], ["--all"])
        )
    assert own.client.acl_log() == []
    assert (document.code, document.stderr) == (0, "All is well.\n"), document
    assert (document.data["state"], document.data["drift"]["total"]) == ("ok", 0)
    assert [each["name"] for each in document.data["checks"]] == ALL
    assert (not_ok(document), document.data["needs"]) == ({}, "")
    assert (short.code, short.stderr) == (table.code, table.stderr) == (0, "")
    assert short.stdout == "31 checks ok; --all shows them\nAll is well.\n"
    *rows, last = table.stdout.splitlines()[1:]
    assert last == "All is well."
    assert [row.split()[0].lower() for row in rows] == [name.split("_")[0] for name in ALL]
    for secret in ("choose-one", "choose one", AUTH_KEY, GITHUB_TOKEN):
        assert secret not in document.stdout + document.stderr + table.stdout


def test_all_checks_need_few_statements(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    make_healthy(docora)
    statements: list[object] = []
    execute = psycopg.Cursor.execute

    def counted(cursor: Any, statement: Any, *arguments: Any, **options: Any) -> Any:
        statements.append(statement)
        return execute(cursor, statement, *arguments, **options)

    actions = docora.actions(drift_grace=0)
    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    *_, diagnosis = diagnose(actions.docora)
    assert isinstance(diagnosis, Diagnosis)
    assert {check.state for check in diagnosis.checks} == {"ok"}
    assert len(statements) <= 30, statements


@pytest.mark.parametrize(("state", "code"), [("peace", 0), ("trouble", 6)])
def test_it_shows_what_is_not_ok_and_the_worst_last(docora: Docora, state: str, code: int) -> None:
    make_healthy(docora)
    if state == "trouble":
        apps = [docora.add_app(name) for name in APPS]
        for number in range(12):
            error = "no route to host" if number % 2 else "connection refused"
            repository_id = docora.add_repository(f"octo/web{number}")
            docora.link(apps[number % len(apps)], repository_id, last_error=error)
        docora.connection.execute(
            "UPDATE repositories SET circuit_open_until = now() + interval '1 hour'"
            " WHERE name LIKE 'web_'"
        )
        for name in ("api", "docs", "web"):
            status = "scanning" if name == "web" else "pending_snapshot"
            docora.link(apps[0], docora.add_repository(f"octo/{name}"), status)
        gone = docora.link(apps[1], docora.add_repository("octo/gone"))
        docora.queue_job(gone)
        docora.delete_link(gone)
        docora.age_links()
    for columns in (40, 80):
        shown = at_terminals(docora, ["doctor"], columns=columns, env=ONE_LOOK)
        screen = plain_data(shown.data)
        file = Path(__file__).parent / f"{state}_{columns}.txt"
        text = "".join(f"{line.rstrip()}\n" for line in screen.splitlines())
        if os.environ.get("WRITE_TRANSCRIPTS"):
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")
        assert max(map(len, text.splitlines())) <= columns
        assert columns < 80 or text.count("\n") < 24
        assert (shown.code, shown.talk) == (code, "")


def test_the_worker_whose_clock_is_off_most_is_named(docora: Docora) -> None:
    for name, host, ahead in (("a", "web1", "31"), ("b", "", "-90"), ("c", "web1", "9" * 30)):
        docora.add_worker(name)
        docora.redis.hset(f"rq:worker:{name}", mapping={"hostname": host, "clock_ahead": ahead})
    found = check(examine(docora), "clocks")
    assert found["state"] == "critical"
    assert "unknown host (worker b) is 90 s " in found["finding"]


def test_failed_links_and_circuits_are_counted_and_too_many_are_a_failure(docora: Docora) -> None:
    make_healthy(docora)
    apps = [docora.add_app("Acme"), docora.add_app("Quiet Harbor")]
    for number, hours in enumerate((1, -1, -1)):
        open_for = timedelta(hours=hours)
        repository_id = docora.add_repository(f"octo/web{number}", circuit_open_for=open_for)
        docora.link(apps[number % 2], repository_id)
    for most, state, code in (("3", "warning", 0), ("2", "critical", 6)):
        result = docora.run("doctor", "--json", "--max-failed", most, env=ONE_LOOK)
        assert (result.code, states(result)["failed_links"]) == (code, state), result
    assert check(result, "failed_links")["finding"].startswith("3 failed links of 2 apps")
    circuits = check(result, "open_circuits")
    assert (circuits["state"], circuits["finding"]) == ("warning", "1 open circuit")


@pytest.mark.parametrize(
    ("failed", "others", "state"), [(6, 5, "critical"), (5, 5, "warning"), (5, 0, "critical")]
)
def test_that_most_links_failed_with_one_error_is_critical_and_names_it(
    docora: Docora, failed: int, others: int, state: str
) -> None:
    make_healthy(docora)  # has three links, of which none failed
    docora.connection.execute("DELETE FROM app_repositories WHERE status = 'synced'")
    docora.redis.delete("rq:scheduled:snapshot-queue")
    for number in range(failed):
        docora.add_link(last_error=f"HTTP 502 on created docs/page{number}.md")
    for _ in range(others - 2):
        docora.add_link("failed", last_error="fatal: no route to host")
    result = examine(docora)
    found = check(result, "failed_links")
    assert (found["state"], found["hint"]) == (state, "docora-ops failed --group-by error")
    named = "most of all links with one error: HTTP 502"
    assert (named in found["finding"]) is (state == "critical"), found


# Drift. That each kind is found: tests/repair/test_every_kind_of_drift.py.


def test_each_kind_of_drift_is_counted_with_examples(docora: Docora) -> None:
    make_healthy(docora)
    for status in (*["pending_snapshot"] * 7, "scanning"):
        docora.add_link(status)
    docora.age_links()
    document = examine(docora).ended(6)
    drift = document.data["drift"]
    none = dict.fromkeys(["orphan", "duplicate", "stale_entry"], 0)
    assert (drift["total"], drift["counts"]) == (8, {"lost": 7, "stuck": 1, **none})
    # Few of each kind, so that the checks stay on the screen.
    assert [example["kind"] for example in drift["examples"]] == [*["lost"] * 5, "stuck"]
    assert not_ok(document) == dict.fromkeys(["drift_lost", "drift_stuck"], "critical")
    lost = check(document, "drift_lost")
    assert lost["finding"].startswith("7 lost links")
    assert lost["hint"] == "docora-ops repair"


@pytest.mark.parametrize(
    ("expired", "worker", "is_drift"),
    [
        (80, {"clock_ahead": "0"}, False),
        (80, {"clock_ahead": "0", "state": "suspended"}, False),
        (100, {"clock_ahead": "0"}, True),
        (80, {"clock_ahead": "0", "no_job_reason": '{"code": "postgres"}'}, True),
        (80, {"clock_ahead": "0", "last_heartbeat": LONG_AGO, "no_job_reason": ""}, True),
        (80, {}, True),  # RQ's own workers do not recover links
    ],
)
def test_a_link_that_live_workers_soon_recover_is_no_drift(
    docora: Docora, expired: int, worker: dict[str, str], *, is_drift: bool
) -> None:
    make_healthy(docora)
    for name, value in worker.items():
        docora.redis.hset("rq:worker:worker-1", name, value)
    for status in ("scanning", "pending_snapshot"):
        docora.start_job(docora.add_link(status).job_id, heartbeat=-expired, worker="killed")
    docora.age_links()
    with frozen(docora):
        diagnosis, screen, metrics, repair = docora.run_together(
            ("doctor", "--json"),
            ("status", "--json"),
            ("metrics",),
            ("repair", "--dry-run", "--json"),
            env=ONE_LOOK,
        )
    counts = {"lost": int(is_drift), "stuck": int(is_drift)}
    assert diagnosis.data["drift"]["counts"].items() >= counts.items()
    state = "critical" if is_drift else "ok"
    assert states(diagnosis).items() >= {"drift_lost": state, "drift_stuck": state}.items()
    assert screen.data["drift"].items() >= counts.items()
    assert f'docora_drift_links{{kind="stuck"}} {counts["stuck"]}' in metrics.stdout
    assert repair.data["by_kind"].items() >= {"lost": 1, "stuck": 1}.items()


def test_an_interrupt_while_it_waits_for_the_second_look_ends_it(docora: Docora) -> None:
    docora.add_link("pending_snapshot")
    docora.age_links()
    with docora.start("doctor", "--json", env={"DOCORA_OPS_DRIFT_GRACE": "600"}) as process:
        assert process.stderr.readline() == "1 suspect at first check: checking again in 600 s.\n"
        finish(process, signal.SIGINT).ended(130, "interrupted")


# Faults of Redis and of the queue


def test_each_fault_of_redis_and_of_the_queue_is_seen(spoiled: Docora, own: OwnRedis) -> None:
    """Each finding about Redis itself: tests/doctor/test_checks.py."""
    client = own.client
    job = spoiled.enqueue(spoiled.add_link("synced").job_id)
    job.enqueued_at = now() - timedelta(hours=3)
    job.save()
    spoiled.schedule_job(spoiled.add_link("synced").job_id, now() - timedelta(minutes=10))
    client.rpush("bull:snapshot-queue:wait", "1")
    client.config_set("maxmemory-policy", "volatile-lru")
    with frozen(spoiled):
        first = examine(spoiled).ended(6)
    critical = ("redis_eviction", "bullmq_queue", "workers", "delayed_jobs", "freshness")
    warned = dict.fromkeys(("schedule", "waiting_jobs"), "warning")
    assert not_ok(first) == dict.fromkeys(critical, "critical") | warned
    assert "redis-cli" in check(first, "bullmq_queue")["command"]
    assert "1 job waits" in check(first, "workers")["finding"]
    assert "the first was due 10m" in check(first, "delayed_jobs")["finding"]
    assert check(first, "waiting_jobs")["finding"] == "1, the oldest for 3h"

    client.config_set("maxmemory-policy", "noeviction")
    spoiled.add_worker()
    client.set("rq:suspended", "1")
    client.set(f"rq:scheduler-lock:{QUEUE}", "scheduler")
    own.become_replica()
    with redis.Redis.from_url(own.url, client_name=WORKER_NAME) as bullmq_worker:
        bullmq_worker.ping()
        second = examine(spoiled)
    assert not_ok(second) == {
        **dict.fromkeys(("redis_primary", "bullmq_queue", "workers"), "critical"),
        **dict.fromkeys(("schedule", "delayed_jobs", "waiting_jobs"), "warning"),
        **dict.fromkeys(OF_BOTH, "not_checked"),
    }
    assert "a BullMQ worker of Docora runs" in check(second, "bullmq_queue")["finding"]
    delayed = check(second, "delayed_jobs")
    assert "workers queue them, yet the first was due 10m" in delayed["finding"]
    assert check(second, "workers")["hint"] == "docora-ops resume"


def test_a_redis_that_can_not_save_is_examined_all_the_same(spoiled: Docora, own: OwnRedis) -> None:
    shutil.rmtree(str(own.client.config_get("dir")["dir"]))
    own.client.config_set("save", "3600 1")
    own.client.bgsave()
    eventually(
        lambda: own.client.info("persistence")["rdb_last_bgsave_status"] == "err", "the failure"
    )
    result = examine(spoiled).ended(6)
    assert {name for name, state in not_ok(result).items() if name in DETAILS_OF_REDIS} == {
        "redis_primary",
        "redis_persistence",
    }
    assert "refuses writes: MISCONF" in check(result, "redis_primary")["finding"]


def test_a_redis_that_tells_nothing_is_only_a_warning(spoiled: Docora, own: OwnRedis) -> None:
    user = spoiled.redis_access.command_name
    own.client.execute_command("ACL", "SETUSER", user, "-info")  # type: ignore[no-untyped-call]
    result = examine(spoiled).ended(6)
    found = states(result)
    assert found["redis"] == "warning"
    assert {found[name] for name in DETAILS_OF_REDIS} == {"not_checked"}
    assert [name for name in OF_QUEUE if found[name] == "not_checked"] == []
    assert "+info" in check(result, "redis")["hint"]


# Faults of Postgres and of the settings


def test_each_missing_table_and_column_is_named(docora: Docora) -> None:
    docora.connection.execute(
        "ALTER TABLE repositories DROP COLUMN circuit_open_until;"
        "ALTER TABLE app_repositories DROP COLUMN last_error; DROP TABLE snapshot_files"
    )
    result = examine(docora).ended(6)
    assert not_ok(result) == {
        "tables": "critical",
        "workers": "critical",
        **dict.fromkeys(["schemas", "privileges", "schedule", *OF_LINKS, *OF_BOTH], "not_checked"),
    }
    assert check(result, "tables")["finding"] == (
        "missing: repositories.circuit_open_until, app_repositories.last_error, snapshot_files"
    )
    assert "DATABASE_URL" in check(result, "tables")["hint"]
    assert result.data["drift"] is None


def test_a_missing_privilege_comes_with_the_statement_that_grants_it(docora: Docora) -> None:
    name = docora.role
    rights = "SELECT (status), UPDATE (status)"
    docora.connection.execute(f"REVOKE {rights} ON app_repositories FROM {name}".encode())
    result = examine(docora).ended(6)
    assert not_ok(result) == {
        "privileges": "critical",
        "workers": "critical",
        **dict.fromkeys(["schedule", *OF_LINKS, *OF_BOTH], "not_checked"),
    }
    statement = check(result, "privileges")["hint"]
    assert statement == f"GRANT {rights} ON public.app_repositories TO {name};"
    docora.connection.execute(statement.encode())
    docora.connection.execute(f"REVOKE DELETE ON app_delivered_files FROM {name}".encode())
    only_resync = examine(docora)
    assert (only_resync.code, states(only_resync)["privileges"]) == (6, "warning"), only_resync
    assert check(only_resync, "privileges")["finding"].endswith("DELETE on app_delivered_files")
    docora.connection.execute(check(only_resync, "privileges")["hint"].encode())
    assert states(examine(docora))["privileges"] == "ok"


def test_all_is_well_for_the_role_and_the_user_for_monitoring(docora: Docora) -> None:
    """The fixture checks that Redis has refused them nothing."""
    make_healthy(docora)
    url = docora.database_access.monitor
    read_only = f"{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"
    with frozen(docora):
        for database_url in (url, url + read_only):
            env = {"DATABASE_URL": database_url, "REDIS_URL": docora.redis_access.monitor}
            result = docora.run("doctor", "--read-only", "--json", env=ONE_LOOK | env)
            assert (result.code, result.stderr, not_ok(result)) == (0, "All is well.\n", {}), result


def test_a_role_that_may_only_read_judges_what_it_can_and_is_given_no_grant(docora: Docora) -> None:
    make_healthy(docora)
    env = {"DATABASE_URL": docora.database_access.monitor, "REDIS_URL": docora.redis_access.monitor}
    with frozen(docora):
        result = docora.run("doctor", "--json", env=ONE_LOOK | env)
    assert (result.code, not_ok(result)) == (6, {"privileges": "critical"}), result
    found = check(result, "privileges")
    assert "may only read" in found["finding"]
    assert "writing to Redis was not tried" in found["finding"]
    assert "--read-only" in found["hint"]
    assert "GRANT" not in found["hint"]


def test_neither_server_is_needed_to_check_the_other(docora: Docora) -> None:
    make_healthy(docora)
    dead = f"127.0.0.1:{refused_port()}"
    no_database = {"DATABASE_URL": f"postgres://u:5ecr3t@{dead}/d"}
    no_redis = {"REDIS_URL": f"redis://u:5ecr3t@{dead}/0"}
    database, queue = examine(docora, **no_database), examine(docora, **no_redis)
    table = docora.run("doctor", env=ONE_LOOK | no_database | no_redis)
    for result, server, what_needs_it in (
        (database, "postgres", [*DETAILS_OF_POSTGRES, *OF_LINKS]),
        (queue, "redis", [*DETAILS_OF_REDIS, *OF_QUEUE]),
    ):
        of_both = ["schedule", "clocks", "latency", "freshness", *OF_BOTH]
        missing = dict.fromkeys([*what_needs_it, *of_both], "not_checked")
        assert not_ok(result) == {server: "critical", **missing}
        assert check(result, "drift_lost")["finding"] == f"needs {server.capitalize()}"
        assert result.data["needs"] == server.capitalize()
        assert "127.0.0.1" in check(result, server)["finding"]
    first, *_, last = table.stdout.splitlines()
    assert first == "28 checks not made: they need Postgres and Redis"
    assert last == "2 critical, 28 not checked."
    for result in (database, queue, table):
        assert result.code == 5, result
        assert "5ecr3t" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("server", "marker"), [("postgres", b"GROUP BY status"), ("redis", b"rq:suspended")]
)
def test_a_server_lost_midway_costs_the_rest(docora: Docora, server: str, marker: bytes) -> None:
    is_postgres = server == "postgres"
    proxied = Proxy.before_postgres if is_postgres else Proxy.before_redis
    with proxied(docora.database_url if is_postgres else docora.redis_url) as proxy:
        lost = proxy.plan(marker, Fault.LOSE_REPLY)
        result = examine(docora, **{"DATABASE_URL" if is_postgres else "REDIS_URL": proxy.url})
        assert lost.requests
    assert result.code == 5, result
    assert (states(result)[server], states(result)["drift_lost"]) == ("critical", "not_checked")
    assert result.data["drift"] is None


def test_a_key_that_decrypts_nothing_is_a_warning_if_it_can_be_judged(docora: Docora) -> None:
    make_healthy(docora)
    right, wrong = bytes(32), bytes(31) + b"1"
    docora.connection.execute(
        "UPDATE apps SET client_auth_key_encrypted = %s", (encrypt("key", right),)
    )
    found = examine(docora, ENCRYPTION_KEY=wrong.hex())
    assert (found.code, not_ok(found)) == (0, {"settings": "warning"})
    assert "ENCRYPTION_KEY decrypts none of the auth keys of 3 apps" in found.stdout
    assert not_ok(examine(docora, ENCRYPTION_KEY=right.hex())) == {}
    assert not_ok(examine(docora, ENCRYPTION_KEY=None)) == {}
    monitor = {"DATABASE_URL": docora.database_access.monitor, "ENCRYPTION_KEY": wrong.hex()}
    assert not_ok(docora.run("doctor", "--read-only", "--json", env=ONE_LOOK | monitor)) == {}


def test_unusable_settings_are_exit_code_2_and_warnings_are_no_failure(docora: Docora) -> None:
    no_database = examine(docora, DATABASE_URL=None)
    no_redis = examine(docora, REDIS_URL="redis://u:5ecr3t@h?nonsense=5ecr3t")
    for result, missing, other in (
        (no_database, "postgres", "redis"),
        (no_redis, "redis", "postgres"),
    ):
        found = [states(result)[name] for name in ("settings", missing, other)]
        assert (result.code, found) == (2, ["critical", "not_checked", "ok"]), result
        assert check(result, "settings")["hint"]
    docora.add_worker()
    no_key = examine(docora, ENCRYPTION_KEY="5ecr3t")
    assert (no_key.code, no_key.data["state"], no_key.stderr) == (0, "warning", "2 warnings.\n")
    # No pass of `schedule` was ever seen.
    assert not_ok(no_key) == dict.fromkeys(["settings", "schedule"], "warning")
    assert "ENCRYPTION_KEY" in check(no_key, "settings")["finding"]
    for result in (no_redis, no_key):
        assert "5ecr3t" not in result.stdout + result.stderr
