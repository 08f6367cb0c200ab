"""`--dry-run` tells what a command would do, and changes nothing."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from rq.job import Job, JobStatus

from docora_ops.links import Outcome
from tests.support.bulk_actions import APP, RESYNC, SCHEDULE, BulkAction, every_bulk_action
from tests.support.docora import Docora, Result
from tests.support.job_states import MISPLACED, STATES, add_link_in_each_state
from tests.support.read_only import frozen, read_only
from tests.support.rows import TestLink

OUTCOMES = {name: outcome.value for name, (_, outcome) in STATES.items()} | {
    "bad ids": "not_queued"
}
WORDS = {
    "queued": "would queue",
    "replaced_stale": "would replace a stale job",
    "already_queued": "already queued",
    "already_running": "already running",
    "not_queued": "can't be queued",
}


def add_links(docora: Docora, status: str) -> dict[str, TestLink]:
    """A link of each kind that `OUTCOMES` names."""
    links = add_link_in_each_state(docora, docora.add_app("Acme Search", APP), status)
    links["bad ids"] = docora.link(APP, docora.add_repository("octo/bad", "repo.bad"), status)
    return links


def planned(result: Result) -> dict[str, str]:
    return {link["job_id"]: link["outcome"] for link in result.data["planned_links"]}


def dry_command(bulk: BulkAction) -> list[str]:
    """Nothing is asked, since nothing is at stake."""
    return [word for word in bulk.command if word != "--yes"] + ["--dry-run"]


def as_if_real(dry: Result) -> dict[str, object]:
    """The document of a dry run, but for the option in the command that its hint repeats."""
    document: dict[str, object] = dry.json
    return document | {"hint": str(document["hint"]).replace(" --dry-run", "")}


def outcomes_of(bulk: BulkAction) -> dict[str, str]:
    """What becomes of each kind of link: schedule replaces the jobs that no worker would take."""
    if bulk is not SCHEDULE:
        return OUTCOMES
    # Jobs of links have no rate limit.
    replaced = [name for name in MISPLACED if "rate limited" not in name]
    return OUTCOMES | dict.fromkeys(replaced, Outcome.REPLACED_STALE.value)


@every_bulk_action
def test_a_dry_run_of_many_links_predicts_what_the_real_one_then_does(
    docora: Docora, bulk: BulkAction
) -> None:
    links = add_links(docora, bulk.status)
    with frozen(docora):
        dry = docora.run(*dry_command(bulk), "--json", env=read_only(docora))
    assert dry.code == 6, dry
    assert dry.json.keys() == {"data"}
    tally = {
        "total",
        "completed",
        "put_to_work",
        "cancelled",
        "stopped_by",
        "cancelled_by",
        *(outcome.value for outcome in Outcome),
    }
    tally |= {"left_to_operations", "deliveries_cleared"}
    if bulk is RESYNC:
        assert dry.data["deliveries_cleared"] == 2 * dry.data["put_to_work"]
    assert (dry.data["message"], dry.data["dry_run"]) == ("Dry run", True)
    expected = outcomes_of(bulk)
    assert planned(dry) == {links[name].job_id: outcome for name, outcome in expected.items()}
    first = next(
        one for one in dry.data["planned_links"] if one["job_id"] == links["no job"].job_id
    )
    assert first == {
        "job_id": links["no job"].job_id,
        "outcome": "queued",
        "app_id": APP,
        "app_name": "Acme Search",
        "repository_id": links["no job"].repository_id,
        "repository_name": "octo/0",
        "error_message": None,
    }

    rows = docora.dump()[0]
    real = docora.run(*bulk.command, "--json")
    assert real.code == dry.code
    assert {name: real.data[name] for name in tally} == {name: dry.data[name] for name in tally}
    failures = {one["job_id"]: one["error_message"] for one in real.data["failures"]}
    for one in dry.data["planned_links"]:
        if one["outcome"] == "not_queued":
            assert failures.pop(one["job_id"]) == one["error_message"]
        else:
            assert one["error_message"] is None
    running = {links[name].job_id for name, outcome in OUTCOMES.items() if "running" in outcome}
    assert failures.keys() == (running if bulk is RESYNC else set())
    if bulk is SCHEDULE:
        assert docora.dump()[0] == rows


@pytest.mark.parametrize("command", ["retry", "resync"])
def test_a_dry_run_of_one_link_predicts_what_the_real_one_then_does(
    docora: Docora, command: str
) -> None:
    links = add_links(docora, "failed")
    errors = {"bad ids": "invalid_job_id", "job is a string": "job_unreadable"}
    kinds = ("no job", "finished", "queued, in no list", "enqueued", "running", *errors)
    commands = [(command, *links[kind].ids) for kind in kinds]
    with frozen(docora):
        dry_runs = docora.run_together(
            *((*one, "--dry-run", "--json") for one in commands), env=read_only(docora)
        )
    real_runs = docora.run_together(*((*one, "--json") for one in commands))

    for kind, dry, real in zip(kinds, dry_runs, real_runs, strict=True):
        assert dry.code == real.code, (kind, dry, real)
        if kind in errors:
            assert (dry.code, dry.json["code"]) == (6, errors[kind])
            assert dry.json == real.json
        elif (command, kind) == ("resync", "running"):
            assert (dry.code, dry.json["code"]) == (4, "snapshot_running")
            assert as_if_real(dry) == real.json
        else:
            assert dry.code == 0, dry
            expected = {**real.data, "message": "Dry run", "dry_run": True}
            assert dry.data == expected
            assert real.data["outcome"] == OUTCOMES[kind]
            assert (dry.data["deliveries_cleared"] is None) is (command == "retry")


@every_bulk_action
def test_the_table_of_a_dry_run_shows_link_by_link_what_would_happen(
    docora: Docora, bulk: BulkAction
) -> None:
    links = add_links(docora, bulk.status)
    with frozen(docora):
        result = docora.run(*dry_command(bulk), env=read_only(docora))
    assert result.code == 6, result
    lines = result.stdout.splitlines()
    for kind, outcome in outcomes_of(bulk).items():
        job_id = links[kind].job_id
        [line] = [line for line in lines if "Acme Search" in line and job_id in line.split()]
        assert WORDS[outcome] in line, kind
    assert "nothing was changed" in result.stderr
    assert "operation bulk_" not in result.stderr


def test_what_is_refused_unknown_or_empty_ends_dry_as_it_does_for_real(docora: Docora) -> None:
    waiting = docora.add_link("pending_snapshot")
    docora.enqueue(waiting.job_id)
    before = docora.dump()
    commands: list[tuple[str, ...]] = [
        ("retry", *waiting.ids),
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
            assert as_if_real(dry) == real.json
    assert dry_runs[3].data["planned_links"] == []
    assert docora.dump() == before


OPERATION = "bulk_0123456789abcdef"


def quiet(docora: Docora, link: TestLink) -> None:
    """Nobody has ever used this Redis."""
    docora.redis.flushdb()


def troubled(docora: Docora, link: TestLink) -> None:
    """Whatever a change would see to."""
    docora.redis.hset(f"docora:bulk:{OPERATION}", mapping={"total": 2, "completed": 1})
    docora.leave_job(link.job_id, JobStatus.FAILED)
    doubtful, expired, waiting, doubled = (docora.add_link() for _ in range(4))
    docora.leave_job(doubtful.job_id, JobStatus.QUEUED)
    docora.start_job(expired.job_id, heartbeat=-30)
    docora.enqueue(waiting.job_id)
    docora.redis.expire(Job.key_for(waiting.job_id), 3600)
    docora.enqueue(doubled.job_id)
    docora.redis.rpush(docora.queue.key, doubled.job_id)
    for status in ("pending_snapshot", "scanning", "synced"):
        docora.add_link(status, scanned=timedelta(days=1))
    gone = docora.add_link("pending_snapshot")
    docora.queue_job(gone)
    docora.delete_link(gone)
    docora.age_links()


@pytest.mark.parametrize("arrange", [quiet, troubled])
def test_what_only_reads_changes_nothing(
    docora: Docora, arrange: Callable[[Docora, TestLink], None]
) -> None:
    link = docora.add_link()
    docora.add_deliveries(link, 3)
    arrange(docora, link)
    before = docora.dump()
    ids = link.ids
    commands: list[tuple[str, ...]] = [
        ("failed",),
        ("status",),
        ("failed", "--group-by", "error"),
        ("links", "--sort", "error", "--circuit", "open"),
        ("apps",),
        ("show", *ids),
        ("queue",),
        ("doctor",),
        ("metrics", "--by-app"),
        ("operations",),
        ("history",),
        ("progress", OPERATION),
        ("retry", *ids, "--dry-run"),
        ("retry-all-failed", "--dry-run"),
        ("resync", *ids, "--dry-run"),
        ("resync", link.app_id, "--all", "--dry-run"),
        ("schedule", "--dry-run"),
        ("repair", "--dry-run"),
        ("repair", *ids, "--dry-run"),
    ]
    for command in commands:
        result = docora.run(*command, env={"DOCORA_OPS_DRIFT_GRACE": "0"})
        assert result.code in {0, 3, 6}, result
        assert docora.dump() == before, command
