"""Changes that are killed at the worst moments."""

import signal

import pytest

from tests.support.bulk_actions import RESYNC, RETRY, SCHEDULE, BulkAction, every_bulk_action
from tests.support.docora import Docora, finish
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy
from tests.support.running_commands import (
    PATIENT,
    await_goodbye,
    pending,
)


@every_bulk_action
@pytest.mark.parametrize(
    ("marker", "fault", "pushed"),
    [
        pytest.param(PUSH, Fault.HOLD_REQUEST, {2}, id="before a push"),
        pytest.param(PUSH, Fault.HOLD_REPLY, {3}, id="after a push"),
        pytest.param(COMMIT, Fault.HOLD_REQUEST, {3, 4}, id="before a commit"),
        pytest.param(COMMIT, Fault.HOLD_REPLY, {3, 4}, id="after a commit"),
    ],
)
def test_a_bulk_action_killed_in_its_third_batch_loses_nothing_and_the_next_one_does_the_rest(
    docora: Docora, bulk: BulkAction, marker: bytes, fault: Fault, pushed: set[int]
) -> None:
    total = 4 * bulk.batch + 1
    bulk.add_links(docora, total)
    docora.connection.execute(
        "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
        " SELECT app_id, repository_id, 'file', 'sha' FROM app_repositories"
    )
    tables = docora.dump()[0]
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        plan = bulk.plan_third_batch(redis_proxy, postgres_proxy, marker, fault)
        process = docora.start(
            *bulk.command,
            env={**PATIENT, "REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url},
        )
        plan.wait()
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        await_goodbye(docora)
    queued = len(docora.waiting())
    assert queued / bulk.batch in pushed
    docora.assert_sound()
    done = pending(docora)
    if bulk is SCHEDULE:
        assert docora.dump()[0] == tables
    else:
        assert 0 < done <= queued
        assert done % bulk.batch == 0
    deliveries = deliveries_by_status(docora)
    if bulk is RESYNC:
        assert deliveries == {("synced", 1): total - done, ("pending_snapshot", 0): done}
    else:
        assert sum(links for (_, files), links in deliveries.items() if files == 1) == total

    result = docora.run(*bulk.command, "--json")
    assert result.code == 0, result
    assert result.data["total"] == (total - done if bulk is RETRY else total)
    # Jobs of batches that were pushed but not committed are found and kept.
    assert result.data["already_queued"] == (queued - done if bulk is RETRY else queued)
    if bulk is RESYNC:
        assert result.data["deliveries_cleared"] == total - done
    assert docora.waiting() == [link.job_id for link in docora.links()]
    assert docora.statuses() == {bulk.done_status: total}
    docora.assert_sound()


def deliveries_by_status(docora: Docora) -> dict[tuple[str, int], int]:
    """The number of links, by their status and their delivered files."""
    rows = docora.connection.execute(
        "SELECT status, files, count(*) AS links FROM (SELECT l.status, count(f.file_path) AS files"
        " FROM app_repositories l LEFT JOIN app_delivered_files f USING (app_id, repository_id)"
        " GROUP BY l.id) AS each GROUP BY status, files"
    ).fetchall()
    return {(row["status"], row["files"]): row["links"] for row in rows}
