"""A stop is seen soon and named, and what only looks like one is no alarm."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rq.utils import utcformat

from docora_ops.actions.docora import Docora as Opened
from docora_ops.actions.doctor import Diagnosis, diagnose
from docora_ops.actions.drift import Suspects
from docora_ops.actions.freshness import cycle_seconds, read_freshness, still_threshold
from docora_ops.database import Database
from docora_ops.database.freshness import Scans, long_due_links, read_scans
from docora_ops.links import LinkStatus
from docora_ops.queue.audit_stream import STREAM
from docora_ops.settings import Settings
from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK, check, examine, make_healthy, not_ok, scan_links
from tests.support.docora import Docora, Env
from tests.support.privileges import without_rule

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def stands(docora: Docora, **settings: object) -> bool:
    """Tells whether nothing moves."""
    with Opened(docora.settings.model_copy(update=settings)) as opened:
        freshness, _ = read_freshness(opened, opened.queue_to_read.overview(1))
        return freshness.nothing_moves


def record_change(docora: Docora, command: str, seconds_ago: float) -> None:
    """Leaves only this audit entry."""
    docora.redis.delete(STREAM)
    at = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    docora.redis.xadd(STREAM, {"command": command}, id=f"{at.timestamp() * 1000:.0f}-0")


def test_nothing_moves_once_a_link_has_been_due_for_too_long(docora: Docora) -> None:
    scan_links(docora, 350)
    assert not stands(docora), "until the next pass, each link is due for a moment"
    scan_links(docora, 500)
    assert stands(docora)
    assert not stands(docora, overdue_after=60_000), "with a threshold, passes may run by day only"
    link, *_ = docora.links()
    docora.set_link(link, status="failed")
    assert stands(docora), "a scheduler queues it, unless its circuit was opened"
    docora.set_link(link, status="pending_snapshot")
    assert stands(docora)
    docora.enqueue(link.job_id)
    assert not stands(docora), "its job waits, but not for long"
    queued = utcformat(datetime.now(UTC) - timedelta(seconds=200))
    docora.redis.hset(f"rq:job:{link.job_id}", "enqueued_at", queued)
    assert stands(docora)


def test_a_change_or_the_end_of_a_suspension_is_no_stop(docora: Docora) -> None:
    scan_links(docora, 500)
    for command, seconds, is_stop in (
        ("resume", 10, False),
        ("release", 10, False),
        ("resume", 190, True),
        ("retry", 10, True),  # the link has been due for longer, whatever was retried
    ):
        record_change(docora, command, seconds)
        assert stands(docora) is is_stop, (command, seconds)
    link, *_ = docora.links()
    docora.set_link(link, status="pending_snapshot")
    record_change(docora, "retry", 10)
    assert not stands(docora), "it may have become pending just now"
    record_change(docora, "retry", 200)
    assert stands(docora)
    assert docora.run("pause", "--yes").code == 0
    docora.redis.delete(STREAM)
    assert not stands(docora), "the suspension has an alarm of its own"


def test_if_redis_does_not_tell_whether_anything_moves_that_is_an_error(docora: Docora) -> None:
    make_healthy(docora)
    scan_links(docora, 2000)
    with without_rule(docora.redis, "+xrevrange", "docora-ops", docora.redis_access.command_name):
        result = docora.run("metrics")
        status = docora.run("status")
        diagnosis = examine(docora)
    docora.redis.acl_log_reset()
    for run in (result, status, diagnosis):
        assert run.code == 5, run
    for run in (result, status):
        assert run.stderr.count("does not permit the command xrevrange") == 1, run
    assert "docora_links_overdue 2.0\n" in result.stdout
    assert 'docora_up{server="redis"} 0.0\n' in result.stdout
    assert check(diagnosis, "redis")["state"] == "critical"
    assert "2 links of 2 apps overdue" in status.stdout


@pytest.mark.parametrize(
    ("set_to", "scan_interval", "longest_gap", "still"),
    [
        (None, 60, 20, 180),
        (None, 10, 20, 120),
        (None, 60, 600, 1800),
        (100, 60, 600, 100),
        (50_000, 60, 20, 50_000),
    ],
)
def test_a_threshold_that_is_set_is_obeyed_and_else_follows_the_gaps(
    set_to: int | None, scan_interval: int, longest_gap: int, still: int
) -> None:
    settings = Settings().model_copy(
        update={"overdue_after": set_to, "scan_interval_ms": 1000 * scan_interval}
    )
    gaps = [(ago(1000), timedelta(seconds=gap)) for gap in (15, longest_gap, 12)]
    scans = Scans(NOW, ago(60), 1, ago(60), 0, 0, 0, None, gaps)
    assert still_threshold(settings, scans) == still


@pytest.mark.parametrize(
    ("links", "span", "gaps", "expected"),
    [
        (0, 0, [], None),
        (2, 800, [(0, 800)], None),  # there may have been a stop between the two
        (2, 0.1, [], None),  # two jobs that end together show no pace
        (102, 900, [], 9 * 200),  # of 200 links
        (3, 600, [(0, 300), (300, 300)], 300 * 200),
        # The last scan of one link was before a stop of 13 minutes, all others were after it.
        (200, 800, [(20, 780)], 20 * 200 // 198),
        # The stop was before these scans.
        (102, 100, [(100, 780)], 200),
    ],
)
def test_the_pace_is_that_before_the_last_scan_without_the_longest_gap(
    links: int, span: float, gaps: list[tuple[float, float]], expected: int | None
) -> None:
    """`gaps`: seconds from the end of each gap to the last scan, and its length."""
    last = ago(4000)  # however long ago
    ends = [(last - timedelta(seconds=end), timedelta(seconds=gap)) for end, gap in gaps]
    first = last - timedelta(seconds=span)
    scans = Scans(NOW, last, links, first, 0, 200, 200, None, ends)
    assert cycle_seconds(scans if links else replace(scans, last_scanned_at=None)) == expected


def stop_workers(docora: Docora) -> None:
    docora.redis.delete("rq:workers", "rq:workers:snapshot-queue")


def freshness(docora: Docora, env: Env = None) -> dict[str, object]:
    one_look = ONE_LOOK | dict(env or {})
    found: dict[str, object] = docora.run("status", "--json", env=one_look).data["freshness"]
    return found


@pytest.mark.slow
def test_a_stop_is_seen_before_links_are_overdue_and_these_in_time(docora: Docora) -> None:
    scan_links(docora, *(250 + 1.5 * number for number in range(200)))
    found = freshness(docora)
    assert (found["nothing_moves"], found["overdue"], found["is_slow"]) == (True, 0, False)
    assert (found["nothing_moves_after_seconds"], found["overdue_after_seconds"]) == (180, 960)
    scan_links(docora, *(880 + 1.5 * number for number in range(200)))
    found = freshness(docora)
    assert (found["overdue_after_seconds"], found["nothing_moves"]) == (960, True)
    assert 140 <= int(str(found["overdue"])) <= 150
    obeyed = freshness(docora, {"DOCORA_OPS_OVERDUE_AFTER": "300"})
    assert (obeyed["overdue"], obeyed["overdue_after_seconds"]) == (200, 300)
    assert obeyed["nothing_moves_after_seconds"] == 300


def test_the_last_scan_of_a_link_that_fails_or_is_held_back_makes_no_gap(docora: Docora) -> None:
    """Its row keeps a scan of half an hour ago, when all others were scanned as always."""
    make_healthy(docora)
    scan_links(docora, *(200 + 2 * number for number in range(100)))
    docora.add_link("failed", scanned=timedelta(minutes=30))
    held_back = docora.add_repository("octo/held", circuit_open_for=timedelta(minutes=20))
    docora.link(docora.add_app("Quiet Harbor"), held_back, "synced", scanned=timedelta(minutes=40))
    assert freshness(docora)["nothing_moves_after_seconds"] == 180
    docora.add_link("synced", scanned=timedelta(seconds=900))
    # Three times the gap of 502 s, less the time since the other links were scanned.
    assert 1200 < int(str(freshness(docora)["nothing_moves_after_seconds"])) < 1600


def test_many_circuits_of_which_postgres_has_no_statistics_cost_no_time(docora: Docora) -> None:
    app_id = docora.add_app()
    for statement in (
        "INSERT INTO repositories (repository_id, github_url, owner, name)"
        " SELECT 'repo_' || n, 'https://github.com/octo/' || n, 'octo', n"
        " FROM generate_series(1, 15000) n",
        "INSERT INTO app_repositories (app_id, repository_id, status, last_scanned_at)"
        f" SELECT '{app_id}', repository_id, 'synced', now() - interval '1 hour' FROM repositories",
        "ANALYZE repositories, app_repositories",
        "UPDATE repositories SET circuit_open_until = now() + interval '1 hour'",
    ):
        docora.connection.execute(statement)
    before = datetime.now(UTC) - timedelta(minutes=30)
    settings = docora.settings.model_copy(update={"statement_timeout": 2})
    with closing(Database(settings)) as database:
        assert read_scans(database, [], 300_000).gaps == []
        assert long_due_links(database, list(LinkStatus), before, 300_000, []) == []


def test_many_failed_links_around_each_scan_make_no_gap(docora: Docora) -> None:
    make_healthy(docora)
    scan_links(docora, *(200 + 9 * number for number in range(40)))
    for number in range(202):
        docora.add_app(f"App {number}")
    docora.connection.execute(
        "INSERT INTO app_repositories (app_id, repository_id, status, last_scanned_at)"
        " SELECT a.app_id, repository_id, 'failed', last_scanned_at"
        " + (row_number() OVER (PARTITION BY l.id) - 101.5) * interval '1 millisecond'"
        " FROM app_repositories l, apps a WHERE status = 'synced' AND a.app_name LIKE 'App %'"
        " AND last_scanned_at BETWEEN now() - interval '390 s' AND now() - interval '290 s'"
    )
    assert freshness(docora)["nothing_moves_after_seconds"] == 180


@pytest.mark.parametrize(
    ("queued", "threshold", "state"),
    [(False, None, "critical"), (True, None, "warning"), (False, "50000", "warning")],
)
def test_a_pass_that_is_missing_while_links_are_due_and_not_queued_is_critical(
    docora: Docora, *, queued: bool, threshold: str | None, state: str
) -> None:
    """With a threshold, `schedule` may run by day only."""
    make_healthy(docora)
    scan_links(docora, 700)
    if queued:
        ids = "SELECT app_id || '-' || repository_id FROM app_repositories WHERE status = 'synced'"
        docora.enqueue(docora.one(ids))
    docora.redis.set("docora-ops:schedule", int(datetime.now(UTC).timestamp()) - 310)
    result = examine(docora, DOCORA_OPS_OVERDUE_AFTER=threshold)
    assert not_ok(result).get("schedule") == state, result
    shown = docora.run("status", "--json", env={"DOCORA_OPS_OVERDUE_AFTER": threshold}).data
    assert shown["schedule_state"] == state
    assert shown["freshness"]["schedule_stopped"] == (state == "critical")


def examined(docora: Docora) -> Iterator[Suspects | Diagnosis]:
    with Opened(docora.settings.model_copy(update={"drift_grace": 1})) as opened:
        yield from diagnose(opened)


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_missing_worker_is_critical_at_a_second_look(docora: Docora, *, comes_back: bool) -> None:
    make_healthy(docora)
    stop_workers(docora)
    looks = 0
    for event in examined(docora):
        if isinstance(event, Diagnosis):
            [workers] = [each for each in event.checks if each.name == "workers"]
            assert workers.state == ("ok" if comes_back else "critical")
        else:
            looks += 1
            if comes_back:
                docora.add_worker()
    assert looks


def test_that_all_workers_refuse_jobs_is_named_as_the_cause(docora: Docora) -> None:
    make_healthy(docora)
    scan_links(docora, 2000)
    reason = {"code": "wrong_clock", "message": "clock 3,600 s ahead", "hint": None}
    docora.redis.hset("rq:worker:worker-1", "no_job_reason", json.dumps(reason))
    result = examine(docora)
    found = check(result, "freshness")
    assert (found["state"], check(result, "workers")["state"]) == ("critical", "critical"), result
    assert "takes no job: clock 3,600 s ahead" in check(result, "workers")["finding"]
    said = (
        "nothing is scanned: no worker takes jobs (clock 3,600 s ahead); 1 job waiting, last scan"
    )
    assert docora.run("status").stdout.startswith(f"{said} 33m ago\n")


def test_running_jobs_of_both_backends_move(docora: Docora, bullmq: Bullmq) -> None:
    """However long they take, and wherever their links stand."""
    scan_links(docora, 3000)
    assert freshness(docora)["nothing_moves"]
    execution = docora.start_job(docora.add_link("scanning").job_id)
    assert not freshness(docora)["nothing_moves"]
    docora.redis.delete(execution.key)
    assert freshness(docora)["nothing_moves"]
    beside = bullmq.environment()
    assert freshness(docora, beside)["nothing_moves"]
    link = docora.add_link("scanning")
    bullmq.start(link)
    docora.redis.hset(bullmq.key(link.job_id), "processedOn", 1)
    assert not freshness(docora, beside)["nothing_moves"]
    bullmq.expire_lock(link)
    assert freshness(docora, beside)["nothing_moves"]
    docora.add_deliveries(link, 1)
    assert not freshness(docora, beside)["nothing_moves"]
