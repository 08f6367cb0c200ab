"""What commands say and do beside a standby, and while it takes over from the primary."""

from datetime import UTC, datetime

import pytest

from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.standby import Pair
from tests.support.worker_processes import held_worker

pytestmark = pytest.mark.slow  # starts a pair of servers


def test_no_host_takes_writes_until_the_standby_is_promoted(replicated: Docora, pair: Pair) -> None:
    link = replicated.add_link()
    of_both, of_standby = {"DATABASE_URL": pair.either}, {"DATABASE_URL": pair.standby.command}
    assert replicated.run("failed", env=of_both).code == 0
    pair.catch_up()
    for command in ("retry-all-failed", "schedule"):
        refused = replicated.run(command, "--json", env=of_standby).ended(5, "postgres")
        assert "is read-only" in refused.json["error"]
        assert "try again once it is promoted" in refused.json["hint"]
    of_any = {"DATABASE_URL": f"{pair.standby.command},{pair.primary_host}"}
    refused = replicated.run("retry", *link.ids, "--json", env=of_any).ended(5, "postgres")
    assert "add target_session_attrs=read-write" in refused.json["hint"]
    pair.stop_primary()
    refused = replicated.run("retry", *link.ids, "--json", env=of_both).ended(5, "postgres")
    assert f"{pair.primary_host} can't be reached: no such file" in refused.json["error"]
    assert f"{pair.standby_host} is read-only" in refused.json["error"]
    assert "if a standby takes over, try again once it is promoted" in refused.json["hint"]
    assert replicated.waiting() == []
    pair.promote()
    retried = replicated.run("retry", *link.ids, "--json", env=of_both).ended(0)
    assert "Redis belongs to" not in retried.stderr  # a standby has its primary's identifier
    assert replicated.waiting() == [link.job_id]
    assert pair.status(link) == "pending_snapshot"
    status = replicated.run("status", "--json", env=of_both)
    assert status.data["postgres"].endswith(f" on {pair.standby_host}")


@pytest.fixture
def docora(replicated: Docora) -> Docora:
    """The Docora of the fixture `snapshots`."""
    return replicated


def of_worker(pair: Pair) -> dict[str, str]:
    return {"DATABASE_URL": pair.either.replace("docora_ops_", "docora_worker_")}


def test_commits_that_a_failover_has_lost_leave_nothing_that_repair_can_not_mend(
    pair: Pair, replicated: Docora, snapshots: Snapshots
) -> None:
    retried, _ = snapshots.add_link({"a": "1\n"})
    snapshotted = snapshots.link(
        snapshots.add_app("Other"), retried.repository_id, "pending_snapshot"
    )
    resynced = snapshots.link(snapshots.add_app("Third"), retried.repository_id, "pending_snapshot")
    snapshots.run_job(resynced)
    replicated.age_links()
    pair.catch_up()
    pair.cut_off()
    assert replicated.run("repair", "--yes", env=ONE_LOOK).code == 0
    assert snapshots.work().code == 0
    assert replicated.status(snapshotted) == "synced"
    assert replicated.run("retry", *retried.ids).code == 0
    assert replicated.run("resync", *resynced.ids).code == 0
    pair.stop_primary()
    pair.promote()
    on_standby = {"DATABASE_URL": pair.standby.command, **ONE_LOOK}
    # The retry is lost, and its job runs nevertheless.
    assert pair.status(retried) == "failed"
    assert snapshots.work(**of_worker(pair)).code == 0
    assert pair.status(retried) == "synced"
    # The snapshot is lost: it is made again, and the file is sent again.
    assert pair.status(snapshotted) == "pending_snapshot"
    assert replicated.run("status", "--json", env=on_standby).data["drift"]["lost"] == 1
    assert replicated.run("repair", "--yes", env=on_standby).code == 0
    assert snapshots.work(**of_worker(pair)).code == 0
    assert pair.status(snapshotted) == "synced"
    assert len(snapshots.receiver.of("Other").requests) == 2
    # So is the resync, whose job has found nothing to send: only the command finishes it.
    assert len(snapshots.receiver.of("Third").requests) == 1
    assert replicated.run("resync", *resynced.ids, env=on_standby).code == 0
    assert snapshots.work(**of_worker(pair)).code == 0
    assert len(snapshots.receiver.of("Third").requests) == 2


def test_a_job_that_a_promotion_interrupts_is_tried_again(pair: Pair, snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"b": "1\n"}, max_retry_attempts=3, retry_base_delay_ms=1000)
    pair.catch_up()
    with held_worker(snapshots, "--concurrency", "1", **of_worker(pair)) as (gate, worker):
        pair.catch_up()
        pair.stop_primary()
        gate.release()
        worker.await_line("takes no job: Postgres database docora_0 has no usable server")
        pair.promote()
        worker.await_line("takes jobs again")
        eventually(lambda: pair.status(link) == "synced", "a second try")
        worker.stop()
    assert "tried again in 1 s" in worker.log
    assert worker.log.count("takes no job") == 1


def test_a_standby_shows_its_lag_and_calls_no_link_lost(replicated: Docora, pair: Pair) -> None:
    link = replicated.add_link(status="pending_snapshot")
    replicated.set_link(link, created_at=datetime(2020, 1, 1, tzinfo=UTC))
    pair.catch_up()
    pair.lag()
    # On the standby it is pending still, while its job has run and is gone.
    replicated.set_link(link, status="synced", last_scanned_at=datetime(2020, 1, 2, tzinfo=UTC))
    environment = {"DATABASE_URL": pair.standby.command, **ONE_LOOK}
    status = replicated.run("status", "--json", env=environment).ended(0)
    assert status.data["links_by_status"]["pending_snapshot"] == 1
    assert status.data["drift"] is None
    standby = status.data["standby"]
    assert standby["unreplayed_bytes"] > 0
    assert standby["last_change_seconds"] >= 0
    screen = replicated.run("status", env=environment).stdout
    assert ", a standby, last change " in screen
    assert "bytes to replay" in screen
    assert "not judged: a standby may lag behind the queue" in screen

    doctor = replicated.run("doctor", "--json", env=environment)
    primary = check(doctor, "postgres_primary")
    assert (primary["state"], "it is a standby, last" in primary["finding"]) == ("critical", True)
    for name in ("drift_lost", "drift_stuck", "servers_match"):
        found = check(doctor, name)
        assert (found["state"], found["finding"]) == ("not_checked", "needs the primary"), found

    metrics = replicated.run("metrics", env=environment).ended(0)
    assert "docora_links{" in metrics.stdout
    assert "docora_drift_links" not in metrics.stdout

    repair = replicated.run("repair", "--dry-run", "--json", env=environment).ended(5, "postgres")
    assert "it says nothing about drift" in repair.json["error"]

    wait = replicated.run("wait", *link.ids, "--timeout", "2", "--json", env=environment).ended(8)
    assert "No live job" not in wait.stderr

    pair.catch_up()
    replicated.run("wait", *link.ids, "--timeout", "5", "--json", env=environment).ended(0)


def test_a_standby_is_preferred_where_the_url_says_so(replicated: Docora, pair: Pair) -> None:
    pair.catch_up()
    url = f"{pair.primary.command},{pair.standby_host}&target_session_attrs=prefer-standby"
    for promoted, host in ((False, pair.standby_host), (True, pair.primary_host)):
        if promoted:
            pair.promote()
            eventually(lambda: not pair.is_standby, "a promotion")
        status = replicated.run("status", "--json", env={"DATABASE_URL": url}).ended(0)
        assert status.data["postgres"].endswith(f" on {host}")
