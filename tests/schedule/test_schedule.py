"""`docora-ops schedule`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
from rq.job import Job, JobStatus

from tests.schedule.checks import document, job_ids, known_operations, rows
from tests.support.docora import Docora, finish
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.running_commands import PATIENT
from tests.support.terminal import on_terminal


def add_a_link_of_each_kind(docora: Docora) -> dict[str, TestLink]:
    docora.add_worker()
    app_id = docora.add_app("Acme Search")

    def add(status: str, open_for: timedelta | None = None, **options: Any) -> TestLink:
        repository_id = docora.add_repository("octo/api", circuit_open_for=open_for)
        return docora.link(app_id, repository_id, status, **options)

    soon, ago = timedelta(minutes=20), timedelta(minutes=6)
    links = {
        "pending": add("pending_snapshot"),
        "synced": add("synced", scanned=ago),
        "failed": add("failed"),
        "stale": add("pending_snapshot"),
        "waiting": add("pending_snapshot"),
        "running": add("pending_snapshot"),
        "scanned just now": add("synced", scanned=timedelta(minutes=4)),
        "scanning": add("scanning"),
        "pending, circuit open": add("pending_snapshot", soon),
        "synced, circuit open": add("synced", soon, scanned=ago),
        "failed, circuit open": add("failed", soon),
        "failed, circuit was open": add("failed", -soon),
    }
    docora.leave_job(links["stale"].job_id, JobStatus.FAILED)
    docora.enqueue(links["waiting"].job_id)
    docora.start_job(links["running"].job_id)
    return links


def test_one_pass_queues_what_is_due_and_says_so_in_one_document(docora: Docora) -> None:
    links = add_a_link_of_each_kind(docora)
    before = rows(docora)
    result = docora.run("schedule", "--json")
    assert result.code == 0, result
    assert result.json == document(
        "Schedule pass done", queued=3, replaced_stale=1, already_queued=1, already_running=1
    )
    waiting = {"waiting": None, "pending": False, "synced": True, "failed": True, "stale": False}
    assert docora.waiting() == [links[kind].job_id for kind in waiting]
    for kind, is_rescan in waiting.items():
        if is_rescan is not None:
            assert docora.job(links[kind]).kwargs["is_rescan"] is is_rescan, kind
    assert rows(docora) == before
    assert known_operations(docora) == []
    assert re.fullmatch(r"\S+ on \S+, Redis \S+/\d+: 6 links due\.\n", result.stderr)


def test_the_summary_counts_by_app(docora: Docora) -> None:
    docora.add_links(5, apps=2, status="synced")
    docora.leave_job(f"app_{1:024x}-repo_{1:024x}", JobStatus.FINISHED)
    result = docora.run("schedule")
    assert result.code == 0, result
    cells = [re.split(r"  +", line.strip()) for line in result.stdout.splitlines()]
    assert ["App", "queued", "replaced stale", "total"] in cells
    assert [f"App 1 (app_{1:024x})", "2", "1", "3"] in cells
    assert [f"App 2 (app_{2:024x})", "2", "0", "2"] in cells
    assert ["all", "4", "1", "5"] in cells
    assert "no worker listens" in result.stderr
    assert "bulk_" not in result.stderr


def test_a_second_pass_finds_the_jobs_of_the_first(docora: Docora) -> None:
    docora.add_links(7, status="pending_snapshot")
    assert docora.run("schedule", "--json").json == document("Schedule pass done", queued=7)
    before = docora.dump()
    again = docora.run("schedule", "--json")
    assert again.code == 0, again
    assert again.json == document("Schedule pass done", already_queued=7)
    assert docora.dump() == before


def test_nothing_due_is_no_error(docora: Docora) -> None:
    docora.add_link("scanning")
    docora.add_link("synced", scanned=timedelta(minutes=1))
    before = docora.dump()
    for_script, for_person, dry = docora.run_together(
        ("schedule", "--json"), ("schedule",), ("schedule", "--dry-run", "--json")
    )
    assert for_script.code == 0, for_script
    assert for_script.json == document("Nothing is due")
    assert (for_person.code, for_person.stdout) == (0, "Nothing is due\n")
    assert (dry.code, dry.data["total"], dry.data["links"]) == (0, 0, [])
    assert docora.dump() == before


def test_the_table_of_a_dry_run_shows_link_by_link_what_would_happen(docora: Docora) -> None:
    links = add_a_link_of_each_kind(docora)
    before = docora.dump()
    result = docora.run("schedule", "--dry-run")
    assert result.code == 0, result
    assert docora.dump() == before
    would_happen = {
        "pending": "would queue",
        "synced": "would queue",
        "failed": "would queue",
        "stale": "would replace a stale job",
        "waiting": "already queued",
        "running": "already running",
    }
    for kind, link in links.items():
        lines = [line for line in result.stdout.splitlines() if link.job_id in line]
        if kind in would_happen:
            assert would_happen[kind] in lines[0], kind
        else:
            assert lines == [], kind
    assert "nothing was changed" in result.stderr


def test_the_interval_comes_from_the_environment(docora: Docora) -> None:
    link = docora.add_link("synced", scanned=timedelta(minutes=10))
    later = docora.run("schedule", "--json", env={"RESCAN_INTERVAL_MS": "3600000"})
    assert (later.code, later.data["total"], docora.waiting()) == (0, 0, [])
    sooner = docora.run("schedule", "--json", env={"RESCAN_INTERVAL_MS": "60000"})
    assert (sooner.code, sooner.data["queued"]) == (0, 1)
    assert docora.waiting() == [link.job_id]


def test_links_that_cannot_be_queued_are_listed_and_cost_only_themselves(docora: Docora) -> None:
    good = [docora.add_link("synced") for _ in range(3)]
    app_id = docora.add_app("Dotted", "app.dotted")
    bad = [docora.link(app_id, docora.add_repository(), "pending_snapshot") for _ in range(2)]
    unreadable = docora.add_link("failed")
    docora.redis.set(Job.key_for(unreadable.job_id), "not a hash")
    before = rows(docora)
    result = docora.run("schedule", "--json")
    assert result.code == 6, result
    assert (result.data["queued"], result.data["failed"]) == (3, 3)
    reasons = {one["job_id"]: one["error"] for one in result.data["failures"]}
    assert reasons.keys() == {link.job_id for link in (*bad, unreadable)}
    assert all("can't form a job id" in reasons[link.job_id] for link in bad)
    assert "does not hold a job" in reasons[unreadable.job_id]
    assert docora.waiting() == [link.job_id for link in good]
    assert rows(docora) == before


def test_a_terminal_is_not_asked_and_gets_a_bar(docora: Docora) -> None:
    docora.add_links(7, apps=2, status="synced")
    code, shown = on_terminal(docora, ["schedule"])
    assert code == 0, shown
    assert "[y/N]" not in shown
    assert "7/7" in shown
    assert len(docora.waiting()) == 7


# At the same time as others


def waiting_for_locks(docora: Docora) -> int:
    row = docora.connection.execute(
        "SELECT count(*) AS waiting FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'docora-ops' AND wait_event_type = 'Lock'"
    ).fetchone()
    assert row is not None
    return int(row["waiting"])


@contextmanager
def starting_line(docora: Docora, connections: int) -> Iterator[None]:
    """Hold back the batches of commands started in the block until all wait; then let them go."""
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute("LOCK TABLE app_repositories IN EXCLUSIVE MODE")
        yield
        eventually(
            lambda: waiting_for_locks(docora) >= connections, f"{connections} that wait for a lock"
        )
        holder.rollback()


def test_passes_at_the_same_time_never_double_a_job(docora: Docora) -> None:
    docora.add_links(1200, apps=3, status="synced")
    before = rows(docora)
    with starting_line(docora, 2 * 3):
        processes = [docora.start("schedule", "--json", env=PATIENT) for _ in range(3)]
    results = [finish(process) for process in processes]
    for result in results:
        assert result.code == 0, result
        assert result.data["total"] == result.data["succeeded"] == 1200
    assert sum(result.data["queued"] for result in results) == 1200
    assert sorted(docora.waiting()) == job_ids(docora)
    assert rows(docora) == before


def test_a_pass_beside_a_retry_of_all_failed_links_leaves_one_job_each(docora: Docora) -> None:
    docora.add_links(1200, apps=3)
    with starting_line(docora, 2 * 2):
        schedule = docora.start("schedule", "--json", env=PATIENT)
        retry = docora.start("retry-all-failed", "--batch-size", "70", "--json", env=PATIENT)
    results = finish(schedule), finish(retry)
    for result in results:
        assert result.code == 0, result
        assert result.data["total"] == result.data["succeeded"] == 1200
    assert sum(result.data["queued"] for result in results) == 1200
    assert sorted(docora.waiting()) == job_ids(docora)
    assert docora.statuses() == {"pending_snapshot": 1200}
    docora.assert_sound()


def test_a_pass_beside_a_resync_of_an_app_leaves_one_job_each(docora: Docora) -> None:
    docora.add_links(600, status="synced")
    with starting_line(docora, 2 * 2):
        schedule = docora.start("schedule", "--json", env=PATIENT)
        resync = docora.start("resync", f"app_{1:024x}", "--all", "--yes", "--json", env=PATIENT)
    results = finish(schedule), finish(resync)
    for result in results:
        assert result.code == 0, result
        assert result.data["succeeded"] == 600
    assert sum(result.data["queued"] for result in results) == 600
    assert sorted(docora.waiting()) == job_ids(docora)
    docora.assert_sound()
