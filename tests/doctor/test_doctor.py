"""`doctor`: each check judges what it should, with a hint, and decides the exit code."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.support.docora import Docora
from tests.support.proxy import refused_port
from tests.support.rows import TestLink
from tests.support.terminal import TerminalSession

ONE_LOOK: dict[str, str | None] = {"DOCORA_OPS_DRIFT_GRACE": "0"}
MINUTE = timedelta(minutes=1)


@pytest.fixture
def well(docora: Docora) -> Docora:
    docora.add_worker()
    docora.add_link("synced", scanned=MINUTE)
    docora.queue_job(docora.add_link("pending_snapshot"))
    seconds, _ = docora.redis.time()
    docora.redis.set("docora-ops:schedule", seconds)
    return docora


def checks(docora: Docora, *arguments: str, code: int = 0, **env: str | None) -> dict[str, Any]:
    result = docora.run("doctor", "--json", *arguments, env=ONE_LOOK | env).ended(code)
    return {check["name"]: check for check in result.data}


def test_all_is_well_and_nothing_is_written(well: Docora) -> None:
    before = well.dump()
    found = checks(well)
    assert {name for name, check in found.items() if check["status"] != "ok"} == {"Encryption key"}
    assert found["Encryption key"]["status"] == "note"
    assert well.dump() == before
    short = well.run("doctor", env=ONE_LOOK).ended(0).stdout
    assert f"nothing is critical, {len(found) - 1} checks ok." in short
    assert "Postgres\t" not in short
    assert "Postgres\tok\tPostgreSQL" in well.run("doctor", "--all", env=ONE_LOOK).stdout


def _lose(docora: Docora) -> None:
    docora.add_link("pending_snapshot")
    docora.add_link("scanning")


def _wrong_pair(docora: Docora) -> None:
    docora.redis.flushdb()
    docora.add_worker()
    for number in range(3):
        docora.enqueue(TestLink(f"app_{number:024x}", f"repo_{number:024x}").job_id)


def _bullmq(docora: Docora) -> None:
    docora.redis.rpush("bull:snapshot-queue:wait", "app_1-repo_1")


def _old_queue(docora: Docora) -> None:
    key = f"rq:job:{docora.waiting()[0]}"
    docora.redis.hset(key, "enqueued_at", "2020-01-01T00:00:00.000000Z")


@pytest.mark.parametrize(
    ("prepare", "name", "status", "detail", "hint"),
    [
        (_lose, "Drift", "critical", "2 links without a live job", "docora-ops repair"),
        (_wrong_pair, "Pair", "critical", "none of 3 jobs", "check both"),
        (_bullmq, "Backend", "critical", "BullMQ has workers or jobs", "help workers"),
        (
            lambda docora: docora.redis.delete("rq:workers:snapshot-queue"),
            *("Workers", "critical", "no worker is running", "docora-ops worker"),
        ),
        (
            lambda docora: docora.redis.set("rq:suspended", 1),
            *("Workers", "warning", "suspended", 'rq resume --url "$REDIS_URL"'),
        ),
        (_old_queue, "Queue", "warning", "1 job waiting, the oldest for", "more workers"),
        (
            lambda docora: docora.redis.delete("docora-ops:schedule"),
            *("Schedule", "warning", "no pass", "docora-ops schedule"),
        ),
        (
            lambda docora: docora.redis.set("docora-ops:schedule", 1_764_380_000),
            *("Schedule", "warning", "last pass", "docora-ops schedule"),
        ),
        (
            lambda docora: docora.add_link("failed"),
            *("Failed", "warning", "1 of 3 links failed", "failed --group-by error"),
        ),
        (
            lambda docora: docora.add_repository(circuit_open_for=MINUTE),
            *("Circuits", "warning", "1 repository open", "links --circuit open"),
        ),
        (
            lambda docora: docora.add_link("synced", scanned=timedelta(days=1)),
            *("Overdue", "warning", "1 link not scanned", "links --overdue"),
        ),
    ],
)
def test_each_problem_has_its_check_with_a_hint(
    well: Docora,
    prepare: Callable[[Docora], object],
    name: str,
    status: str,
    detail: str,
    hint: str,
) -> None:
    prepare(well)
    check = checks(well, code=6 if status == "critical" else 0)[name]
    assert check["status"] == status
    assert detail in check["detail"]
    assert hint in check["hint"]
    assert check["detail"] in well.run("doctor", env=ONE_LOOK).stdout


@pytest.mark.parametrize(
    ("most", "code"), [("1", 6), ("2", 0), ("49%", 6), ("50%", 0), ("x", 2), ("101%", 2)]
)
def test_max_failed_is_a_number_or_a_share_of_all_links(well: Docora, most: str, code: int) -> None:
    well.add_link("failed")
    well.add_link("failed")
    well.run("doctor", "--max-failed", most, "--json", env=ONE_LOOK).ended(code)


@pytest.mark.parametrize(
    ("variable", "url", "name", "others"),
    [
        ("DATABASE_URL", "postgresql://u:s3cr3t@127.0.0.1:{}/d", "Postgres", "Workers"),
        ("REDIS_URL", "redis://u:s3cr3t@127.0.0.1:{}/0", "Redis", "Failed"),
    ],
)
def test_without_one_server_the_other_is_checked(
    well: Docora, variable: str, url: str, name: str, others: str
) -> None:
    found = checks(well, code=5, **{variable: url.format(refused_port())})
    assert found[name]["status"] == "critical"
    assert found[others]["status"] == "ok"
    assert ("Encryption key" in found) == (name == "Redis"), "nothing to do about the key"
    assert "s3cr3t" not in str(found)


def test_another_encryption_key_is_critical(well: Docora) -> None:
    check = checks(well, code=6, ENCRYPTION_KEY="ab" * 32)["Encryption key"]
    assert (check["status"], "decrypts none" in check["detail"]) == ("critical", True)


def test_a_database_of_another_program_is_named(docora: Docora) -> None:
    docora.connection.execute("ALTER TABLE snapshot_files RENAME TO elsewhere")
    try:
        check = checks(docora, code=6)["Tables"]
    finally:
        docora.connection.execute("ALTER TABLE elsewhere RENAME TO snapshot_files")
    assert (check["status"], check["detail"]) == ("critical", "missing: snapshot_files")


def test_a_narrow_terminal_shows_each_hint_in_full(well: Docora) -> None:
    _wrong_pair(well)
    with TerminalSession(well, "doctor") as terminal:
        code, screen = terminal.end()
    assert (code, "…" in screen) == (6, False), screen
    assert all(word in screen for word in ["two", "Docoras:", "check", "both"]), screen
