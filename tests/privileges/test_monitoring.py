"""The role and the user for monitoring run every command that only reads, and change nothing."""

import re
from contextlib import nullcontext
from hashlib import sha1
from importlib.resources import files

import pytest
import redis
from rq.job import JobStatus

from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora, Result
from tests.support.privileges import block, only_our_scripts
from tests.support.rows import TestLink

OPERATION = "bulk_0123456789abcdef"
READING = (
    *("failed", "failed --group-by error", "links --circuit open --group-by repository", "apps"),
    *("show APP REPO", "queue", "status", "metrics --by-app", "operations", "history"),
    *(f"progress {OPERATION}", "retry APP REPO --dry-run", "retry-all-failed --dry-run"),
    *("resync APP REPO --dry-run", "resync APP --all --dry-run", "schedule --dry-run"),
    *("repair --dry-run", "doctor --read-only --json"),
)
CHANGING = (
    *("retry APP REPO", "retry-all-failed --yes", "resync APP REPO --yes", "schedule"),
    *(f"cancel {OPERATION}", "pause"),
)


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link over a stale job, where every command finds something."""
    link = docora.add_link()
    docora.add_deliveries(link, 3)
    docora.leave_job(link.job_id, JobStatus.FAILED)
    docora.queue_job(docora.add_link("pending_snapshot"))
    docora.add_link("pending_snapshot")
    # Its place in the list is looked at again.
    docora.enqueue(docora.add_link("synced").job_id).set_status(JobStatus.FAILED)
    docora.age_links()
    docora.add_worker()
    docora.redis.hset(f"docora:bulk:{OPERATION}", items=["total", 5, "completed", 1])
    return link


def run(docora: Docora, link: TestLink, command: str) -> Result:
    """Runs a command as the monitor."""
    names = {"APP": link.app_id, "REPO": link.repository_id}
    access = {
        "DATABASE_URL": docora.database_access.monitor,
        "REDIS_URL": docora.redis_access.monitor,
    }
    return docora.run(*(names.get(each, each) for each in command.split()), env=ONE_LOOK | access)


def test_it_may_run_what_reads_and_is_refused_what_changes_something(
    docora: Docora, link: TestLink
) -> None:
    before = docora.dump()
    for command in READING:
        result = run(docora, link, command)
        # doctor has found the link without a job.
        assert result.code == (6 if "doctor" in command else 0), (command, result)
    for command in CHANGING:
        result = run(docora, link, command)
        assert result.code == 5, (command, result)
        assert re.search("permission denied|does not permit", result.stderr), result
    assert docora.dump() == before
    docora.redis.acl_log_reset()


def test_it_may_read_all_there_is_of_bullmq(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    bullmq.delay(link)
    ids = {"APP": link.app_id, "REPO": link.repository_id}
    environment = bullmq.environment(
        DATABASE_URL=docora.database_access.monitor,
        REDIS_URL=docora.redis_access.monitor,
        DOCORA_OPS_DRIFT_GRACE="0",
    )
    name = docora.redis_access.monitor_name
    for restriction in (nullcontext(), only_our_scripts(docora.redis, name)):
        with restriction:
            for command in ("show APP REPO", "status", "queue", "metrics", "repair --dry-run"):
                words = (ids.get(each, each) for each in command.split())
                result = bullmq.run(*words, env=environment)
                assert result.code in {0, 6}, (command, result)


# What the topic says that monitoring can do all the same


def test_the_topic_names_each_script_of_a_command_that_reads() -> None:
    def sha(*names: str) -> str:
        folder = files("docora_ops.queue")
        text = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
        return f"+evalsha|{sha1(text.encode(), usedforsecurity=False).hexdigest()}"

    assert block("ACL SETUSER docora-monitor -evalsha").split()[4:] == [
        sha("judge.lua", "look_and_push.lua"),
        sha("judge.lua", "sweep.lua"),
        sha("bullmq.lua"),
    ]


def test_the_narrower_user_runs_every_command_that_reads_and_no_other_script(
    docora: Docora, link: TestLink
) -> None:
    access, endless = docora.redis_access, "while true do end"

    def assert_all_run() -> None:
        for command in ("show APP REPO", "status", "repair --dry-run"):
            assert run(docora, link, command).code == 0, command

    with (
        redis.Redis.from_url(access.monitor) as monitor,
        only_our_scripts(docora.redis, access.monitor_name),
    ):
        docora.redis.script_flush()
        assert_all_run()
        for call in (("EVALSHA", monitor.script_load(endless), 0), ("EVAL", endless, 0)):
            with pytest.raises(redis.exceptions.NoPermissionError):
                monitor.execute_command(*call)
    with only_our_scripts(docora.redis, access.monitor_name, "-script|load"):
        docora.redis.script_flush()
        refused = run(docora, link, "status")
        assert (refused.code, "the command script|load" in refused.stderr) == (5, True)
        for load in ("status", "doctor"):
            docora.run(load)
        assert_all_run()
    docora.redis.acl_log_reset()
