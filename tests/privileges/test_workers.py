"""Each privilege of the role and the user for workers is needed; their tests run with them."""

import pytest
from rq.job import JobStatus

from docora_ops.actions.diagnose import check_privileges
from docora_ops.database import Database
from docora_ops.database.postgres_server import TABLES, read_role
from docora_ops.diagnosis import CheckState
from docora_ops.errors import SnapshotError
from tests.support.privileges import Grant, grants, rules, without_grant, without_rule
from tests.support.snapshots import Snapshots


def test_workers_may_do_what_all_commands_need() -> None:
    of_workers = set(grants("docora_worker"))
    for grant in grants("docora_ops"):
        assert {grant, Grant(grant.privilege, grant.table, None)} & of_workers


@pytest.mark.matrix
def test_without_any_one_grant_jobs_fail_and_doctor_says_what_to_grant(
    snapshots: Snapshots, subtests: pytest.Subtests
) -> None:
    link, upstream = snapshots.add_link({"kept.txt": "1"})
    connection = snapshots.docora.connection
    role = snapshots.docora.database_access.worker_name
    database = Database(snapshots.settings)
    own = [grant for grant in grants("docora_worker") if grant not in grants("docora_ops")]
    assert Grant("UPDATE", "app_repositories", "last_scanned_at") in own
    for number, grant in enumerate(own):
        with subtests.test(grant=str(grant)):
            # Something to remove, after the first round, and something to add.
            upstream.commit(
                {f"{number}.txt": "1", **({f"{number - 1}.txt": None} if number else {})}
            )
            with without_grant(connection, grant, role):
                sentence = f"permission denied for table {grant.table}"
                with pytest.raises(SnapshotError, match=sentence):
                    snapshots.run_job(link)
                assert snapshots.docora.status(link) == "failed"
                assert sentence in snapshots.docora.row(link)["last_error"]
                found = check_privileges(read_role(database, TABLES))
                assert found.state is not CheckState.OK
                assert f"{grant.privilege} on {grant.table}" in found.finding
                assert found.hint
                connection.execute(found.hint.encode())
                assert check_privileges(read_role(database, TABLES)).state is CheckState.OK
            snapshots.run_job(link)
            assert snapshots.docora.status(link) == "synced"
    database.close()


@pytest.mark.matrix
def test_without_any_one_rule_of_redis_a_worker_does_not_start_and_nothing_is_lost(
    snapshots: Snapshots, subtests: pytest.Subtests
) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_link({"a.txt": "a"})
    snapshots.queue(link)
    name = docora.redis_access.worker_name
    before = docora.row(link)
    for rule in rules("docora-worker"):
        with subtests.test(rule=rule):
            with without_rule(docora.redis, rule, "docora-worker", name):
                result = docora.run("worker", "--burst", env=snapshots.environment())
            docora.redis.acl_log_reset()
            assert "Traceback" not in result.stderr
            # BullMQ's keys tell as much as the list of clients; RQ's own workers need the channels.
            if rule in {"+client|list", "&rq:pubsub:*", "+@pubsub"}:
                assert result.code == 0, result
                snapshots.queue(link)
                before = docora.row(link)
                continue
            assert "does not permit" in result.stderr
            if rule == "~docora:repo-lock:*":
                # Only its jobs need that, and are tried again.
                assert result.code == 0, result
                assert docora.job(link).get_status() is JobStatus.SCHEDULED
                assert "does not permit one of our keys" in docora.row(link)["last_error"]
                docora.job(link).delete()
                snapshots.queue(link)
                before = docora.row(link)
                continue
            assert result.code == 5, result
            assert "docora-ops help privileges" in result.stderr
            assert docora.row(link) == before
            assert docora.waiting() == [link.job_id]
    assert snapshots.work().code == 0
    assert docora.status(link) == "synced"
