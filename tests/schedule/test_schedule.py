"""`docora-ops schedule`: which links are due. It makes their jobs and changes nothing else."""

import re
from datetime import timedelta
from functools import partial
from signal import SIGTERM

from rq.job import Job, JobStatus

from docora_ops.links import Action, LinkStatus, Outcome
from tests.support.bulk_actions import bulk_document
from tests.support.docora import INTERMEDIATE, Docora, finish
from tests.support.privileges import with_login
from tests.support.proxy import Fault, Proxy, eventually
from tests.support.read_only import frozen

AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}
STATUSES = (*LinkStatus, "archived")
CIRCUITS = {
    "never-open": None,
    "closed-again": timedelta(minutes=-1),
    "open": timedelta(minutes=20),
}
SCANS = {"never": None, "recently": timedelta(minutes=4), "long-ago": timedelta(minutes=6)}
NOT_OPEN = ("never-open", "closed-again")
DUE = {
    **{("pending_snapshot", circuit, scan): False for circuit in NOT_OPEN for scan in SCANS},
    **{("synced", circuit, scan): True for circuit in NOT_OPEN for scan in ("never", "long-ago")},
    **{("failed", "never-open", scan): True for scan in SCANS},
}
"""Whether the job is a rescan, by the status, circuit and scan of each link that is due."""


def test_exactly_the_links_that_are_due_get_a_job_and_no_row_is_written(docora: Docora) -> None:
    app_id = docora.add_app("Acme Search")
    expected = {}
    for status in STATUSES:
        for circuit, open_for in CIRCUITS.items():
            for scan, ago in SCANS.items():
                name = f"octo/{status}-{circuit}-{scan}"
                repository_id = docora.add_repository(name, circuit_open_for=open_for)
                link = docora.link(app_id, repository_id, status, scanned=ago)
                docora.add_deliveries(link, 1)
                if (status, circuit, scan) in DUE:
                    expected[link.job_id] = DUE[status, circuit, scan]
    assert len(expected) == 13
    before = docora.dump()[0]
    actions = docora.actions()
    result = actions.schedule()
    assert result.action is Action.SCHEDULE
    assert result.counts == {Outcome.QUEUED: 13}
    assert (result.total, result.operation_id, list(result.failures)) == (13, None, [])
    assert actions.schedule().counts == {Outcome.ALREADY_QUEUED: 13}
    assert docora.waiting() == sorted(expected)
    for job_id, is_rescan in expected.items():
        job = Job.fetch(job_id, connection=docora.redis)
        assert job.kwargs["is_rescan"] is is_rescan
    assert docora.dump()[0] == before
    assert docora.redis.keys("docora:*") == []


def test_the_interval_decides_which_links_in_sync_are_due(docora: Docora) -> None:
    old, new, _future = (
        docora.add_link("synced", scanned=timedelta(hours=age)) for age in (6, 4, -1)
    )
    never = docora.add_link("synced")
    due = [never.job_id]
    docora.actions(rescan_interval_ms=10 * 365 * 86_400_000).schedule()
    assert docora.waiting() == due
    for hours, link in ((5, old), (0, new)):
        docora.actions(rescan_interval_ms=hours * 3_600_000).schedule()
        due.append(link.job_id)
        assert docora.waiting() == due


def test_one_pass_queues_what_is_due_and_prints_one_document(docora: Docora) -> None:
    docora.add_worker()
    pending, stale, waiting, running = (docora.add_link("pending_snapshot") for _ in range(4))
    docora.leave_job(stale.job_id, JobStatus.FAILED)
    docora.enqueue(waiting.job_id)
    docora.start_job(running.job_id)
    docora.add_link("synced", scanned=timedelta(minutes=4))
    result = docora.run("schedule", "--json").ended(0)
    assert result.json == bulk_document(
        "Schedule pass done", queued=1, replaced_stale=1, already_queued=1, already_running=1
    )
    assert docora.waiting() == [waiting.job_id, pending.job_id, stale.job_id]
    assert docora.redis.keys("docora:*") == []
    assert "4 links due." in result.stderr


def test_a_job_that_no_worker_would_take_is_replaced_in_the_same_pass(docora: Docora) -> None:
    """RQ writes `scheduled` before it puts a job into its schedule."""
    queued, scheduled, waiting, delayed, taken = (
        docora.add_link("pending_snapshot") for _ in range(5)
    )
    for link in (queued, scheduled, waiting, taken):
        docora.enqueue(link.job_id)
    docora.schedule_job(delayed.job_id)
    for link in (queued, scheduled, taken):
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
    docora.job(scheduled).set_status(JobStatus.SCHEDULED)
    docora.redis.rpush(INTERMEDIATE, taken.job_id)
    with frozen(docora):
        planned = docora.run("schedule", "--dry-run", "--json", env=AT_ONCE)
    # A bulk command believes what the jobs say.
    assert docora.run("retry-all-failed", "--json").data["total"] == 0
    result = docora.run("schedule", "--json", env=AT_ONCE)
    for each in (planned, result):
        counts = (each.data["replaced_stale"], each.data["already_queued"])
        assert (each.code, counts) == (0, (2, 3)), each
    assert docora.waiting() == [waiting.job_id, queued.job_id, scheduled.job_id]
    again = docora.run("schedule", "--json", env=AT_ONCE)
    assert (again.code, again.data["already_queued"]) == (0, 5)


def test_nothing_due_is_no_error(docora: Docora) -> None:
    docora.add_link("scanning")
    docora.add_link("synced", scanned=timedelta(minutes=1))
    with frozen(docora):
        dry = docora.run("schedule", "--dry-run", "--json")
    for_script, for_person = docora.run_together(("schedule", "--json"), ("schedule",))
    assert (for_script.code, for_script.json) == (0, bulk_document("Nothing is due"))
    assert (for_person.code, for_person.stdout) == (0, "Nothing is due\n")
    assert (dry.code, dry.data["total"], dry.data["planned_links"]) == (0, 0, [])


def test_repeated_passes_queue_what_becomes_due_until_a_signal(docora: Docora) -> None:
    first = docora.add_link("pending_snapshot")
    process = docora.start("schedule", "--repeat", env={"SCAN_INTERVAL_MS": "50"})
    eventually(lambda: docora.waiting() == [first.job_id], "the first pass")
    later = docora.add_link("pending_snapshot")
    eventually(lambda: docora.waiting() == [first.job_id, later.job_id], "a later pass")
    result = finish(process, SIGTERM).ended(0)
    dated = r"(?m)^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z docora_.*: [12] links? due\.$"
    assert len(re.findall(dated, result.stderr)) == result.stderr.count(" due.") > 1, result
    # A pass that a timer has started is dated by its log.
    assert "\ndocora_" in docora.run("schedule").stderr


def test_repeated_passes_wait_for_a_lost_server_and_say_so_once(docora: Docora) -> None:
    def passed() -> bool:
        return bool(docora.redis.exists("docora-ops:schedule"))

    with Proxy.before_postgres(docora.database_url) as proxy:
        env = {"SCAN_INTERVAL_MS": "50", "DATABASE_URL": proxy.url}
        process = docora.start("schedule", "--repeat", env=env)
        eventually(passed, "the first pass")
        proxy.go_away()
        before = proxy.connections
        eventually(lambda: proxy.connections > before + 3, "passes without Postgres")
        docora.redis.delete("docora-ops:schedule")
        proxy.come_back()
        eventually(passed, "a pass after the outage")
        result = finish(process, SIGTERM).ended(0)
    assert result.stderr.count("Error: Postgres database") == 1, result


def has_connections(proxy: Proxy, number: int) -> bool:
    return proxy.connections >= number


def test_the_first_repeated_pass_waits_only_for_a_server_that_is_away(docora: Docora) -> None:
    link = docora.add_link("pending_snapshot")
    for proxy, variable in (
        (Proxy.before_redis(docora.redis_url), "REDIS_URL"),
        (Proxy.before_postgres(docora.database_url), "DATABASE_URL"),
    ):
        with proxy:
            proxy.go_away()
            env = {"SCAN_INTERVAL_MS": "50", variable: proxy.url}
            process = docora.start("schedule", "--repeat", env=env)
            eventually(partial(has_connections, proxy, 4), "passes without the server")
            assert docora.waiting() == []
            proxy.come_back()
            eventually(lambda: docora.waiting() == [link.job_id], "a pass after the outage")
            result = finish(process, SIGTERM)
        assert (result.code, result.stderr.count("Error: ")) == (0, 1), result
        docora.redis.flushdb()
    for name, value, code in (
        ("SCAN_INTERVAL_MS", "often", 2),
        ("REDIS_URL", with_login(docora.redis_url, "nobody", "wrong"), 5),
        ("DATABASE_URL", with_login(docora.database_url, "nobody", "wrong"), 5),
    ):
        result = docora.run("schedule", "--repeat", env={name: value}).ended(code)


def test_a_signal_before_the_first_pass_has_begun_ends_them_like_any_other(docora: Docora) -> None:
    with Proxy.before_postgres(docora.database_url) as proxy:
        held = proxy.plan(b"BEGIN", Fault.HOLD_REQUEST)
        process = docora.start("schedule", "--repeat", env={"DATABASE_URL": proxy.url})
        held.wait()
        process.send_signal(SIGTERM)
        held.release()
        assert finish(process).code == 0


def test_repeating_prints_no_documents_and_changes_something(docora: Docora) -> None:
    for option in ("--json", "--dry-run"):
        result = docora.run("schedule", "--repeat", option)
        assert (result.code, f"--repeat and {option} can't" in result.stderr) == (2, True)
