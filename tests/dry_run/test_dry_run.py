"""`--dry-run` of every command, and the commands that only read: they change nothing at all."""

from __future__ import annotations

import pytest
from rq.job import JobStatus

from tests.support.docora import QUEUE, Docora, Result
from tests.support.read_only import frozen, read_only
from tests.support.rows import TestLink

OUTCOMES = {
    "fresh": "queued",
    "failed leftover": "replaced_stale",
    "finished leftover": "replaced_stale",
    "stopped leftover": "replaced_stale",
    "cancelled leftover": "replaced_stale",
    "expired heartbeat": "replaced_stale",
    "orphan": "replaced_stale",
    "place without a hash": "replaced_stale",
    "waiting": "already_queued",
    "between queue and worker": "already_queued",
    "scheduled": "already_queued",
    "deferred": "already_queued",
    "running": "already_running",
    "lock held": "already_running",
    "poison": "failed",
    "unreadable": "failed",
}
"""What becomes of a failed link, by the kind of its job."""

ERRORS = {"poison": "invalid_job_id", "unreadable": "job_unreadable"}


@pytest.fixture
def world(docora: Docora) -> dict[str, TestLink]:
    """A failed link of every kind, each with two delivered files, and links in other states."""
    app = docora.add_app("Acme Search")
    ids_given = {"poison": "repo.poison"}
    links = {
        kind: docora.link(app, docora.add_repository(f"octo/{kind}", ids_given.get(kind)))
        for kind in OUTCOMES
    }
    for link in links.values():
        docora.add_deliveries(link, 2)
    ids = {kind: link.job_id for kind, link in links.items()}
    in_no_list: dict[str, JobStatus] = {
        "failed leftover": JobStatus.FAILED,
        "finished leftover": JobStatus.FINISHED,
        "stopped leftover": JobStatus.STOPPED,
        "cancelled leftover": JobStatus.CANCELED,
        "orphan": JobStatus.QUEUED,
        "between queue and worker": JobStatus.QUEUED,
        "deferred": JobStatus.DEFERRED,
    }
    for kind, job_status in in_no_list.items():
        docora.leave_job(ids[kind], job_status)
    docora.redis.expire(f"rq:job:{ids['finished leftover']}", 1000)
    docora.redis.rpush(f"rq:queue:{QUEUE}:intermediate", ids["between queue and worker"])
    docora.start_job(ids["expired heartbeat"], heartbeat=-100)
    docora.start_job(ids["running"])
    docora.enqueue(ids["waiting"])
    docora.redis.expire(f"rq:job:{ids['waiting']}", 1000)
    docora.redis.rpush(docora.queue.key, ids["place without a hash"])
    docora.schedule_job(ids["scheduled"])
    docora.redis.set(f"rq:job:{ids['unreadable']}", "not a hash")
    docora.connection.execute(
        "SELECT pg_advisory_lock(hashtextextended(%s, 0))", (ids["lock held"],)
    )
    for status in ("synced", "scanning", "pending_snapshot"):
        docora.add_link(status)
    return links


def planned(result: Result) -> dict[str, str]:
    return {link["job_id"]: link["outcome"] for link in result.data["links"]}


def tally(result: Result) -> dict[str, int]:
    return {
        name: result.data[name]
        for name in (
            *("total", "completed", "succeeded", "failed", "cancelled"),
            *("queued", "replaced_stale", "already_queued", "already_running", "skipped"),
        )
    }


def test_a_dry_bulk_retry_says_what_the_real_one_then_does(
    docora: Docora, world: dict[str, TestLink]
) -> None:
    with frozen(docora):
        dry = docora.run("retry-all-failed", "--dry-run", "--json", env=read_only(docora))
    assert dry.code == 6, dry
    assert dry.json.keys() == {"data"}
    assert dry.data.keys() == {"message", "dry_run", "links"} | tally(dry).keys()
    assert (dry.data["message"], dry.data["dry_run"]) == ("Dry run", True)
    assert planned(dry) == {world[kind].job_id: outcome for kind, outcome in OUTCOMES.items()}
    fresh = next(one for one in dry.data["links"] if one["job_id"] == world["fresh"].job_id)
    assert fresh == {
        "job_id": world["fresh"].job_id,
        "outcome": "queued",
        "app_id": world["fresh"].app_id,
        "app_name": "Acme Search",
        "repository_id": world["fresh"].repository_id,
        "repository": "octo/fresh",
        "error": None,
    }

    real = docora.run("retry-all-failed", "--json")
    assert real.code == dry.code
    assert tally(real) == tally(dry)
    reasons = {one["job_id"]: one["error"] for one in dry.data["links"] if one["error"]}
    assert {one["job_id"]: one["error"] for one in real.data["failures"]} == reasons
    assert reasons.keys() == {world["poison"].job_id, world["unreadable"].job_id}
    for kind, outcome in OUTCOMES.items():
        succeeded = outcome in {"queued", "replaced_stale", "already_queued"}
        assert docora.was_reset(world[kind]) is succeeded, kind


def test_a_dry_resync_of_all_says_what_the_real_one_then_does(
    docora: Docora, world: dict[str, TestLink]
) -> None:
    command = ("resync", "Acme Search", "--all")
    with frozen(docora):
        # Nothing is asked, since nothing is at stake.
        dry = docora.run(*command, "--dry-run", "--json", env=read_only(docora))
    assert dry.code == 6, dry
    assert planned(dry) == {world[kind].job_id: outcome for kind, outcome in OUTCOMES.items()}
    assert (
        dry.data.keys() == {"message", "dry_run", "links", "deliveries_cleared"} | tally(dry).keys()
    )

    real = docora.run(*command, "--yes", "--json")
    assert real.code == dry.code
    assert tally(real) == tally(dry)
    assert dry.data["deliveries_cleared"] == 2 * dry.data["succeeded"]
    assert real.data["deliveries_cleared"] == dry.data["deliveries_cleared"]
    listed = {one["job_id"] for one in real.data["failures"]}
    assert listed == {
        world[kind].job_id for kind in ("poison", "unreadable", "running", "lock held")
    }


def test_a_dry_schedule_says_what_the_real_one_then_does(
    docora: Docora, world: dict[str, TestLink]
) -> None:
    with frozen(docora):
        dry = docora.run("schedule", "--dry-run", "--json", env=read_only(docora))
    assert dry.code == 6, dry
    assert dry.data.keys() == {"message", "dry_run", "links"} | tally(dry).keys()
    assert (dry.data["message"], dry.data["dry_run"]) == ("Dry run", True)
    expected = {world[kind].job_id: outcome for kind, outcome in OUTCOMES.items()}
    others = planned(dry).items() - expected.items()
    # Of the links in other states, the one that is pending and the one that is in sync.
    assert planned(dry).items() >= expected.items()
    assert [outcome for _, outcome in others] == ["queued", "queued"]

    rows = docora.dump()[0]
    real = docora.run("schedule", "--json")
    assert real.code == dry.code
    assert tally(real) == tally(dry)
    reasons = {one["job_id"]: one["error"] for one in dry.data["links"] if one["error"]}
    assert {one["job_id"]: one["error"] for one in real.data["failures"]} == reasons
    assert docora.dump()[0] == rows


ALONE = ("fresh", "orphan", "waiting", "running", "poison")


@pytest.mark.parametrize("command", ["retry", "resync"])
def test_a_dry_run_of_one_link_says_what_the_real_one_then_does(
    docora: Docora, world: dict[str, TestLink], command: str
) -> None:
    commands = [(command, world[kind].app_id, world[kind].repository_id) for kind in ALONE]
    with frozen(docora):
        dry_runs = docora.run_together(
            *((*one, "--dry-run", "--json") for one in commands), env=read_only(docora)
        )
    real_runs = docora.run_together(*((*one, "--json") for one in commands))

    for kind, dry, real in zip(ALONE, dry_runs, real_runs, strict=True):
        assert dry.code == real.code, (kind, dry, real)
        if kind in ERRORS:
            assert dry.code == 6
            assert dry.json["code"] == ERRORS[kind]
        elif (command, kind) == ("resync", "running"):
            assert dry.code == 4
            assert dry.json["code"] == "snapshot_running"
        else:
            assert dry.code == 0, dry
            assert dry.data["total"] == 1
            assert dry.data["message"] == "Dry run"
            assert planned(dry) == {world[kind].job_id: OUTCOMES[kind]}
            assert real.data["outcome"] == OUTCOMES[kind]
            assert tally(dry)[OUTCOMES[kind]] == 1
            if command == "resync":
                assert dry.data["deliveries_cleared"] == real.data["deliveries_cleared"] == 2
            continue
        assert dry.json == real.json


def test_the_table_of_a_dry_run_shows_link_by_link_what_would_happen(
    docora: Docora, world: dict[str, TestLink]
) -> None:
    with frozen(docora):
        result = docora.run("retry-all-failed", "--dry-run", env=read_only(docora))
    assert result.code == 6, result
    words = {
        "queued": "would queue",
        "replaced_stale": "would replace a stale job",
        "already_queued": "already queued",
        "already_running": "already running",
        "failed": "can't be queued",
    }
    lines = result.stdout.splitlines()
    for kind, outcome in OUTCOMES.items():
        job_id = world[kind].job_id
        [line] = [line for line in lines if "Acme Search" in line and job_id in line.split()]
        assert words[outcome] in line, kind
    assert "nothing was changed" in result.stderr
    assert "operation bulk_" not in result.stderr


def test_what_is_refused_unknown_or_empty_ends_dry_as_it_does_for_real(docora: Docora) -> None:
    waiting = docora.add_link("pending_snapshot")
    docora.enqueue(waiting.job_id)
    before = docora.dump()
    commands: list[tuple[str, ...]] = [
        ("retry", waiting.app_id, waiting.repository_id),
        ("retry", waiting.app_id, "octo/nothing"),
        ("resync", "Nobody", "octo/nothing"),
        ("retry-all-failed",),
        ("retry-all-failed", "--app", "Nobody"),
    ]
    dry_runs = docora.run_together(*((*one, "--dry-run", "--json") for one in commands))
    real_runs = docora.run_together(*((*one, "--json") for one in commands))
    assert [result.code for result in dry_runs] == [4, 3, 3, 0, 3]
    assert [result.code for result in real_runs] == [4, 3, 3, 0, 3]
    for dry, real in zip(dry_runs, real_runs, strict=True):
        if dry.code:
            assert dry.json == real.json
    assert dry_runs[3].data["links"] == []
    assert docora.dump() == before


def test_progress_and_cancel_write_nothing_unless_there_is_something_to_cancel(
    docora: Docora,
) -> None:
    running = "bulk_00000000000000aa"
    finished = "bulk_00000000000000bb"
    fields = {"total": "9", "completed": "4", "succeeded": "3", "failed": "1", "cancelled": "false"}
    for operation_id, completed in ((running, "4"), (finished, "9")):
        key = f"docora:bulk:{operation_id}"
        for name, value in {**fields, "completed": completed}.items():
            docora.redis.hset(key, name, value)
        docora.redis.expire(key, 900)
    with frozen(docora):
        shown, unknown, cancelled, ended = docora.run_together(
            ("progress", running, "--json"),
            ("progress", "bulk_00000000000000cc", "--json"),
            ("cancel", "bulk_00000000000000cc", "--json"),
            ("cancel", finished, "--json"),
        )
    assert shown.code == 0
    for result in (unknown, cancelled):
        assert (result.code, result.json["code"]) == (3, "not_found")
        assert result.json["error"].startswith("Operation not found or expired")
    assert (ended.code, ended.json["code"]) == (4, "operation_finished")

    key = f"docora:bulk:{running}"
    expiry = docora.redis.pexpiretime(key)
    done = docora.run("cancel", running, "--json")
    assert done.code == 0, done
    assert docora.redis.hgetall(key) == {
        name.encode(): value.encode() for name, value in {**fields, "cancelled": "true"}.items()
    }
    assert docora.redis.pexpiretime(key) == expiry
