"""Commands that are killed, interrupted, cancelled and followed, at the worst moments."""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import pytest

from tests.support.docora import Docora, finish
from tests.support.proxy import COMMIT, LOOKUPS, PUSH, Fault, Proxy, eventually
from tests.support.running_commands import (
    PATIENT,
    await_goodbye,
    only_operation,
    pending,
    progress_of,
)

SEED_VARIABLE = "TEST_KILL_SEED"
SEED = os.environ.get(SEED_VARIABLE) or str(random.SystemRandom().randrange(10**6))
"""Of the random moments; a failing test shows it."""


@pytest.mark.parametrize("batch_size", [3, 10, 25, 60])
def test_a_bulk_retry_killed_at_random_moments_loses_nothing_and_is_finished_by_the_next(
    docora: Docora, batch_size: int
) -> None:
    """Five kills, each of the run that was to finish what the one before had left undone."""
    sys.stdout.write(f"{SEED_VARIABLE}={SEED}\n")
    moments = random.Random(f"{SEED} {batch_size}")
    total = 900
    docora.add_links(total, apps=3)
    kills_left = 5
    while kills_left:
        before, queued = pending(docora), docora.redis.llen(docora.queue.key)
        # After so many links, which spreads the kills over the whole of the work.
        target = queued + moments.randrange(max((total - queued) // kills_left, 1))
        process = docora.start(
            "retry-all-failed", "--batch-size", str(batch_size), "--json", env=PATIENT
        )
        eventually(lambda: docora.redis.keys("docora:bulk:*"), "an operation")
        while docora.redis.llen(docora.queue.key) < target and process.poll() is None:
            time.sleep(0.0005)
        # Anywhere in a batch: between its look, its reset, its push, and its commit.
        time.sleep(moments.uniform(0, 0.004))
        process.kill()
        result = finish(process)
        docora.assert_sound()
        await_goodbye(docora)
        docora.assert_sound()
        if result.code == 0:
            # This test was too slow: once more from the beginning.
            docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
            docora.redis.flushdb()
            continue
        assert result.code == -signal.SIGKILL, result
        kills_left -= 1
        operation_id = only_operation(docora)
        progress = progress_of(docora, operation_id)
        assert int(progress["total"]) == total - before
        assert int(progress["completed"]) <= pending(docora) - before
        assert progress["cancelled"] == "false"
        assert 0 < docora.redis.ttl(f"docora:bulk:{operation_id}") <= 3600
        docora.redis.delete(f"docora:bulk:{operation_id}")
    left = total - pending(docora)
    orphans = len(docora.waiting()) - pending(docora)

    result = docora.run("retry-all-failed", "--json")
    assert result.code == 0, result
    assert result.data["total"] == result.data["succeeded"] == left
    # Jobs of batches that were pushed, but not committed, are found and kept.
    assert result.data["already_queued"] == orphans
    assert docora.statuses() == {"pending_snapshot": total}
    assert len(docora.waiting()) == total
    docora.assert_sound()


@pytest.mark.parametrize("command", ["retry", "resync"])
@pytest.mark.parametrize(
    ("marker", "fault", "has_job", "was_reset"),
    [
        pytest.param(PUSH, Fault.HOLD_REQUEST, False, False, id="before its push"),
        pytest.param(PUSH, Fault.HOLD_REPLY, True, False, id="after its push"),
        pytest.param(COMMIT, Fault.HOLD_REQUEST, True, False, id="before its commit"),
        pytest.param(COMMIT, Fault.HOLD_REPLY, True, True, id="after its commit"),
    ],
)
def test_one_link_of_a_killed_command_is_as_it_was_or_done(
    docora: Docora, command: str, marker: bytes, fault: Fault, has_job: bool, was_reset: bool
) -> None:
    link = docora.add_link()
    docora.add_deliveries(link, 7)
    row = docora.row(link)
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        proxy = redis_proxy if marker is PUSH else postgres_proxy
        moment = proxy.plan(marker, fault, 1 if marker is PUSH else LOOKUPS + 1)
        process = docora.start(
            command,
            link.app_id,
            link.repository_id,
            env={**PATIENT, "REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url},
        )
        moment.wait()
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        await_goodbye(docora)
    assert docora.waiting() == [link.job_id] * has_job
    docora.assert_sound()
    if was_reset:
        assert docora.was_reset(link)
    else:
        assert docora.row(link) == row
    assert docora.deliveries(link) == (0 if was_reset and command == "resync" else 7)

    again = docora.run(command, link.app_id, link.repository_id, "--json")
    if was_reset and command == "retry":
        assert again.code == 4, again
        assert again.json["job"] == "waiting"
    else:
        assert again.code == 0, again
        assert again.data["outcome"] == ("already_queued" if has_job else "queued")
    assert docora.waiting() == [link.job_id]
    assert docora.was_reset(link)
    assert docora.deliveries(link) == (0 if command == "resync" else 7)


@pytest.mark.parametrize(
    ("marker", "fault"),
    [
        pytest.param(PUSH, Fault.HOLD_REPLY, id="after a push"),
        pytest.param(COMMIT, Fault.HOLD_REPLY, id="after a commit"),
    ],
)
def test_a_killed_resync_of_all_forgets_deliveries_only_of_links_that_it_reset(
    docora: Docora, marker: bytes, fault: Fault
) -> None:
    docora.add_links(170)
    app_id = f"app_{1:024x}"
    docora.connection.execute(
        "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
        " SELECT app_id, repository_id, 'file' || i, 'sha'"
        " FROM app_repositories, generate_series(1, 3) i"
    )
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        # The second batch, after the commits of app, deliveries and selection, and the first.
        plan = (
            redis_proxy.plan(marker, fault, number=2)
            if marker is PUSH
            else postgres_proxy.plan(marker, fault, number=5)
        )
        process = docora.start(
            *("resync", app_id, "--all", "--yes"),
            env={**PATIENT, "REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url},
        )
        plan.wait()
        process.kill()
        finish(process)
        await_goodbye(docora)
    rows = docora.connection.execute(
        "SELECT l.status, count(f.file_path) AS files, count(DISTINCT l.id) AS links"
        " FROM app_repositories l LEFT JOIN app_delivered_files f USING (app_id, repository_id)"
        " GROUP BY l.id, l.status"
    ).fetchall()
    by_status = {(row["status"], row["files"]) for row in rows}
    assert by_status == {("failed", 3), ("pending_snapshot", 0)}
    docora.assert_sound()

    result = docora.run("resync", app_id, "--all", "--yes", "--json")
    assert result.code == 0, result
    assert result.data["deliveries_cleared"] == sum(row["files"] for row in rows)
    assert docora.statuses() == {"pending_snapshot": 170}
    assert len(docora.waiting()) == 170
    docora.assert_sound()
