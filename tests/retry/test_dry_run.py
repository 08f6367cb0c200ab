"""`--dry-run` tells what a command would do, and changes nothing."""

from datetime import timedelta

import pytest
from rq.job import Job, JobStatus

from tests.support.bulk_actions import APP
from tests.support.docora import Docora
from tests.support.job_states import STATES, add_link_in_each_state
from tests.support.read_only import frozen, read_only

OUTCOMES = {"no job": "queued", "running": "already_running", "bad ids": "not_queued"}
AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}
OPERATION = "bulk_0123456789abcdef"


def test_a_dry_run_shows_link_by_link_what_a_real_one_would_do(docora: Docora) -> None:
    """And that is what it then does: tests/jobs/test_job_states.py."""
    docora.add_app("Acme Search", APP)
    ids = {"no job": None, "running": None, "bad ids": "repo.bad"}
    links = {
        name: docora.link(APP, docora.add_repository("octo/api", repository_id))
        for name, repository_id in ids.items()
    }
    docora.start_job(links["running"].job_id)
    command = ("retry-all-failed", "--dry-run")
    with frozen(docora):
        dry, table = docora.run_together((*command, "--json"), command, env=read_only(docora))
    assert dry.code == table.code == 6, dry
    assert (dry.data["message"], dry.data["dry_run"]) == ("Dry run", True)
    planned = {link["job_id"]: link["outcome"] for link in dry.data["planned_links"]}
    assert planned == {links[name].job_id: outcome for name, outcome in OUTCOMES.items()}
    planned_words = {
        "queued": "would be queued",
        "already_running": "already running",
        "not_queued": "would not be queued",
    }
    heading, *_ = table.stdout.splitlines()
    assert "\twould be queued\t" in heading
    for name, outcome in OUTCOMES.items():
        [line] = [line for line in table.stdout.splitlines() if links[name].job_id in line]
        assert f"\t{planned_words[outcome]}\t" in line
    assert "nothing was changed" in table.stderr
    assert "operation bulk_" not in table.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["retry", "resync"])
def test_a_dry_run_of_one_link_predicts_what_the_real_one_then_does(
    docora: Docora, command: str
) -> None:
    links = add_link_in_each_state(docora, docora.add_app("Acme Search", APP), "failed")
    links["bad ids"] = docora.link(APP, docora.add_repository("octo/bad", "repo.bad"), "failed")
    bad = docora.row(links["bad ids"])
    errors = {"bad ids": (6, "invalid_job_id"), "job is a string": (6, "job_unreadable")}
    if command == "resync":
        errors["running"] = (4, "snapshot_running")
    kinds = ("no job", "finished", "enqueued", "queued, in no list", *({"running": 0} | errors))
    commands = [(command, *links[kind].ids, "--json") for kind in kinds]
    with frozen(docora):
        dry_runs = docora.run_together(
            *((*one, "--dry-run") for one in commands), env=read_only(docora) | AT_ONCE
        )
    real_runs = docora.run_together(*commands, env=AT_ONCE)
    for kind, dry, real in zip(kinds, dry_runs, real_runs, strict=True):
        assert dry.code == real.code, (kind, dry, real)
        if kind in errors:
            assert (dry.code, dry.json["code"]) == errors[kind]
            # The command in the hint repeats the option.
            hint = str(dry.json["hint"]).replace(" --dry-run", "")
            assert {**dry.json, "hint": hint} == real.json
        else:
            assert dry.code == 0, dry
            assert dry.data == {**real.data, "message": "Dry run", "dry_run": True}
            assert real.data["outcome"] == STATES[kind][1]
            assert (dry.data["deliveries_cleared"] is None) is (command == "retry")
    assert docora.row(links["bad ids"]) == bad


def test_what_only_reads_changes_nothing(docora: Docora) -> None:
    """Whatever a change would see to."""
    link = docora.add_link()
    docora.add_deliveries(link, 3)
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
    docora.redis.srem("rq:queues", docora.queue.key)  # a push would add it
    ids = link.ids
    commands: list[tuple[str, ...]] = [
        *(("status",), ("apps",), ("queue",), ("doctor",), ("operations",), ("history",)),
        *(("failed", "--group-by", "error"), ("links", "--sort", "error", "--circuit", "open")),
        *(
            ("show", *ids),
            ("show", link.app_id),
            ("deliveries", link.app_id, "--files"),
            ("deliveries", *ids),
            ("verify",),
            ("metrics", "--by-app", "--by-error"),
            ("operations", OPERATION),
        ),
        *(("retry", *ids, "--dry-run"), ("retry-all-failed", "--dry-run")),
        *(("resync", *ids, "--dry-run"), ("resync", link.app_id, "--all", "--dry-run")),
        *(("schedule", "--dry-run"), ("repair", "--dry-run"), ("repair", *ids, "--dry-run")),
    ]
    with frozen(docora):
        results = docora.run_together(*commands, env=AT_ONCE)
    for result in results:
        assert result.code in {0, 3, 6}, result
