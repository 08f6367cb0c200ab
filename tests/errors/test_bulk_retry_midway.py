"""A bulk retry that loses Redis in the middle, and what it has done."""

import pytest

from tests.errors.checks import refuses
from tests.support.bulk_actions import RETRY
from tests.support.docora import Docora, finish
from tests.support.fork_server import HOLDS_ROWS
from tests.support.proxy import PUSH, Fault, Proxy
from tests.support.running_commands import PATIENT, progress_of, suspended


def test_a_reply_lost_after_a_push_of_a_bulk_retry_leaves_each_job_once(docora: Docora) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.LOSE_REPLY, number=5)
        result = docora.run(*RETRY.command, "--json", env={"REDIS_URL": proxy.url})
        push.wait()
    data = refuses(result, "redis", "broke the connection")["data"]
    done = docora.statuses()["pending_snapshot"]
    # The sixth batch was in flight as well.
    assert done in {40, 50}
    assert docora.statuses() == {"failed": 200 - done, "pending_snapshot": done}
    assert (data["total"], data["completed"], data["put_to_work"]) == (200, done, done)
    assert f"Stopped (lost server) after {done} of 200 links." in result.stderr
    progress = progress_of(docora, data["operation_id"])
    assert (progress["completed"], progress["cancelled"]) == (str(done), "true")
    assert len(docora.waiting()) == done + 10
    docora.assert_sound()

    rest = docora.run("retry-all-failed", "--json").ended(0)
    assert rest.data["total"] == rest.data["put_to_work"] == 200 - done
    assert rest.data["already_queued"] == 10
    assert len(docora.waiting()) == 200
    docora.assert_sound()


@pytest.mark.slow
def test_a_command_that_is_stopped_with_rows_locked_loses_its_locks(docora: Docora) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REPLY, number=5)
        env = {**PATIENT, HOLDS_ROWS: None, "REDIS_URL": proxy.url}
        process = docora.start(*RETRY.command, "--json", env=env)
        push.wait()
        with suspended(process):
            push.release()
            # Waits for the rows of the fifth batch, a minute at most.
            docora.connection.execute("SELECT 1 FROM app_repositories FOR UPDATE")
        result = finish(process)
    refuses(result, "postgres", "idle-in-transaction timeout")
    docora.assert_sound()
