"""Nothing stops in silence: links that nobody scans are overdue, whatever their status says."""

import time
from datetime import timedelta

import pytest
from rq.job import JobStatus
from rq.utils import now, utcformat

from docora_ops.actions.many_links import schedule
from tests.doctor.test_metrics import numbers
from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK, check, examine, make_healthy, scan_links
from tests.support.docora import Docora
from tests.support.proxy import refused_port
from tests.support.read_only import frozen

DAYS = timedelta(days=2)
LINKS = {
    # status, minutes since the circuit's end (below 0: it is open), since the last scan
    "just scanned": ("synced", None, timedelta(seconds=10)),
    "scanned in time": ("synced", None, timedelta(minutes=15, seconds=10)),
    "long ago": ("synced", None, timedelta(minutes=17)),
    "very long ago": ("synced", None, DAYS),
    "behind an open circuit": ("synced", -20, DAYS),
    "its circuit has just ended": ("synced", 5, DAYS),
    "its circuit ended long ago": ("synced", 20, DAYS),
    "never scanned": ("synced", None, None),
    "pending": ("pending_snapshot", None, DAYS),
    "pending behind a circuit": ("pending_snapshot", -20, DAYS),
    "new": ("pending_snapshot", None, None),
    "scanning": ("scanning", None, DAYS),
    "failed": ("failed", None, DAYS),
    "scanned before a clock was set back": ("synced", None, -DAYS),
}
OVERDUE = {"very long ago", "its circuit ended long ago", "long ago"}
NO_SCAN = {"never scanned", "pending", "new", "just scanned", "scanned in time"}
"""Also overdue if no link at all is scanned."""


@pytest.fixture
def links(docora: Docora) -> dict[str, str]:
    """One link of each kind, in two apps; returns the repository ids by kind."""
    apps = [docora.add_app("Acme Search"), docora.add_app("Quiet Harbor")]
    ids = {}
    for number, (kind, (status, circuit, scanned)) in enumerate(LINKS.items()):
        open_for = None if circuit is None else timedelta(minutes=-circuit)
        ids[kind] = docora.add_repository(f"octo/r{number}", circuit_open_for=open_for)
        docora.link(apps[number % 2], ids[kind], status, scanned=scanned)
    docora.age_links()
    return ids


def overdue(docora: Docora, *options: str) -> list[str]:
    result = docora.run("links", "--overdue", "--json", *options).ended(0)
    return [link["repository_id"] for link in result.data]


def test_exactly_the_links_that_nobody_scans_are_overdue_and_are_seen_everywhere(
    docora: Docora, links: dict[str, str]
) -> None:
    with frozen(docora):
        listed = overdue(docora, "--sort", "overdue")
        status, doctor = docora.run("status", "--json", env=ONE_LOOK).data, examine(docora)
        found = numbers(docora.run("metrics"))
    assert sorted(listed) == sorted(links[each] for each in OVERDUE)
    assert listed[-1] == links["long ago"]
    fresh = status["freshness"]
    counts = (fresh["overdue"], fresh["overdue_apps"], fresh["overdue_after_seconds"])
    assert counts == (3, 2, 960)
    # Pending, never scanned, or in sync and not scanned for five minutes; and the failed one.
    assert (fresh["due"], fresh["nothing_moves"], fresh["scanned_recently"]) == (9, False, 1)
    assert found["docora_links_overdue"] == {(): 3}
    [age] = found["docora_oldest_scan_age_seconds"].values()
    assert 0 <= age - DAYS.total_seconds() < 300
    assert doctor.code == 6
    freshness = check(doctor, "freshness")
    assert (freshness["state"], freshness["hint"]) == ("critical", "docora-ops links --overdue")
    assert "3 links of 2 apps without a good scan for over 16m" in freshness["finding"]
    shown = docora.run("status", env=ONE_LOOK).stdout
    assert "3 links of 2 apps overdue, the oldest 2d: docora-ops links --overdue" in shown
    # The limit can be set.
    changed = docora.run("links", "--overdue", "--json", env={"DOCORA_OPS_OVERDUE_AFTER": "100000"})
    assert [each["repository_id"] for each in changed.data] == [links["very long ago"]]
    away = {"REDIS_URL": f"redis://127.0.0.1:{refused_port()}"}
    groups = docora.run("links", "--overdue", "--group-by", "status", "--json", env=away)
    assert (groups.code, groups.data[0]["links"]) == (0, 3), groups
    assert "it is unknown which apps are held" in groups.stderr


def test_the_oldest_overdue_link_may_be_one_that_is_pending(docora: Docora) -> None:
    for status, scanned in (("synced", timedelta(hours=2)), ("pending_snapshot", DAYS)):
        docora.link(docora.add_app(), docora.add_repository(), status, scanned=scanned)
    docora.age_links()
    found = check(examine(docora), "freshness")["finding"]
    assert found.startswith("2 links of 2 apps without a good scan for over 16m; the oldest was 2d")


@pytest.mark.slow
def test_if_nothing_is_scanned_new_links_count(docora: Docora, links: dict[str, str]) -> None:
    docora.connection.execute(
        "UPDATE app_repositories SET last_scanned_at = last_scanned_at - interval '3 hours'"
    )
    assert set(overdue(docora)) == {links[each] for each in OVERDUE | NO_SCAN}
    fresh = docora.run("status", "--json").data["freshness"]
    assert (fresh["cycle_seconds"], fresh["nothing_moves"]) == (None, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last_pass", "waiting", "workers", "resynced", "is_slow"),
    [
        (6, 0, 1, False, False),
        (None, 0, 1, False, False),
        (1, 1, 0, False, False),
        # No job waits, so the workers keep pace.
        (1, 0, 1, False, False),
        # Another program schedules, and has queued what is due.
        (6, 100, 1, False, True),
        (1, 100, 1, False, True),
        # Since a resync of all links, only few are in sync yet, all of them scanned lately.
        (1, 100, 1, True, True),
    ],
)
def test_a_pass_is_not_slow_if_schedule_or_workers_have_stopped(
    docora: Docora,
    last_pass: int | None,
    waiting: int,
    workers: int,
    *,
    resynced: bool,
    is_slow: bool,
) -> None:
    make_healthy(docora)
    # Scanned every 34 minutes, two thirds longer than links may take otherwise.
    scan_links(docora, *(20 * number + 1 for number in range(100)))
    docora.redis.delete("docora-ops:schedule")
    if last_pass:
        docora.redis.set("docora-ops:schedule", int(now().timestamp()) - 60 * last_pass)
    if waiting != 1:
        docora.redis.delete("rq:queue:snapshot-queue")
    if waiting > 1:
        queued = utcformat(now() - timedelta(seconds=130))
        for link in docora.links():
            docora.enqueue(link.job_id)
            docora.redis.hset(f"rq:job:{link.job_id}", "enqueued_at", queued)
    if resynced:
        docora.connection.execute(
            "UPDATE app_repositories SET status = 'pending_snapshot'"
            " WHERE last_scanned_at < now() - interval '5 minutes'"
        )
    if not workers:
        docora.redis.delete("rq:workers", "rq:workers:snapshot-queue")
    status, doctor = docora.run("status").stdout, examine(docora)
    assert ("a cycle takes" in status) == is_slow
    assert ("a timer should run" in status) == (last_pass != 1)
    assert (check(doctor, "freshness")["state"] == "warning") == is_slow
    assert not is_slow or overdue(docora) == []
    found = numbers(docora.run("metrics"))
    assert (found["docora_slow_cycle_seconds"][()] > 0) == is_slow
    assert found["docora_cycle_seconds"][()] > 0


@pytest.mark.parametrize(
    ("scanned", "pending", "overdue_links"),
    [
        # A few links are still scanned as always, and all others have stood still since a while.
        pytest.param([*range(1, 300, 30), *([1300] * 190)], 0, 190, id="a few in time"),
        pytest.param([*(60 + 301 * n for n in range(3)), *([2400] * 47)], 0, 47, id="a few slowly"),
        # Somebody retries another link every two minutes.
        pytest.param([*range(1, 1800, 120), *([2400] * 1185)], 0, 1192, id="retries"),
        pytest.param([*range(1, 2040, 20)], 0, 0, id="slow but steady"),
        pytest.param([*range(1200, 2040, 20)], 0, 42, id="slow, then stopped"),
        pytest.param([*range(1, 3600, 60)], 140, 0, id="first scan of many links"),
        # After a stop of 10 minutes, the slow cycle goes on.
        pytest.param([*range(1, 600, 20), *range(1200, 2400, 20)], 0, 0, id="after a short stop"),
    ],
)
def test_only_steady_scanning_is_a_reason_why_links_may_wait_for_longer(
    docora: Docora, scanned: list[int], pending: int, overdue_links: int
) -> None:
    app_id = docora.add_app()
    docora.connection.execute(
        "INSERT INTO repositories (repository_id, github_url, owner, name)"
        " SELECT 'repo_' || n, 'https://github.com/octo/' || n, 'octo', n"
        f" FROM generate_series(0, {len(scanned) + pending - 1}) n"
    )
    docora.connection.execute(
        "INSERT INTO app_repositories (app_id, repository_id, status, last_scanned_at, created_at)"
        f" SELECT '{app_id}', 'repo_' || n, CASE WHEN age IS NULL THEN 'pending_snapshot'"
        " ELSE 'synced' END, now() - age * interval '1 second', now() - interval '1 day'"
        " FROM unnest(%s::float[]) WITH ORDINALITY links(age, m), LATERAL (SELECT m - 1 AS n) m",
        ([*map(float, scanned), *([None] * pending)],),
    )
    fresh = docora.run("status", "--json", env=ONE_LOOK).data["freshness"]
    assert fresh["overdue"] == overdue_links, fresh
    assert len(overdue(docora, "--limit", "2000")) == overdue_links
    # A threshold that is set is obeyed, however slow scanning is.
    sql = "SELECT count(*) FROM app_repositories WHERE last_scanned_at < now() - interval '15 min'"
    before = docora.one(sql)
    env = {"DOCORA_OPS_OVERDUE_AFTER": "900"}
    obeyed = len(docora.run("links", "--overdue", "--limit", "2000", "--json", env=env).data)
    assert before <= obeyed <= docora.one(sql)


def test_links_of_an_app_that_fails_do_not_make_scanning_look_slow(docora: Docora) -> None:
    make_healthy(docora)
    docora.connection.execute("DELETE FROM app_repositories")
    scan_links(docora, *(9 * number + 1 for number in range(33)))  # all within 5 minutes, as asked
    hanging = docora.add_app("Delta Hang")
    for number, status in enumerate(("failed", "failed", "failed", "scanning")):
        repository_id = docora.add_repository(f"octo/h{number}")
        docora.link(hanging, repository_id, status, scanned=timedelta(minutes=14))
        if status == "scanning":
            docora.start_job(f"{hanging}-{repository_id}")
    freshness = docora.run("status", "--json").data["freshness"]
    assert (freshness["is_slow"], freshness["overdue_after_seconds"]) == (False, 960)
    assert check(examine(docora), "freshness")["state"] == "ok"


@pytest.mark.parametrize(("why", "links"), [("holds", 2), ("holds", 100), ("circuits", 2)])
def test_links_that_are_not_scanned_on_purpose_do_not_make_a_cycle_longer(
    docora: Docora, why: str, links: int
) -> None:
    make_healthy(docora)
    docora.connection.execute("DELETE FROM app_repositories")
    scan_links(docora, *(9 * number + 1 for number in range(33)))
    for minutes, app in ((14, "Quiet Harbor"), (9, "Paper Lantern")):
        app_id = docora.add_app(app)
        is_open = timedelta(minutes=16) if why == "circuits" else None
        for _ in range(links):
            repository_id = docora.add_repository(circuit_open_for=is_open)
            docora.link(app_id, repository_id, "synced", scanned=timedelta(minutes=minutes))
        if why == "holds":
            docora.redis.hset("docora-ops:holds", app_id, '{"until": null}')
    assert docora.run("status", "--json").data["freshness"]["overdue_after_seconds"] == 960
    assert docora.run("links", "--overdue", "--json").data == []


def test_overdue_with_a_status_that_is_never_overdue_is_refused(docora: Docora) -> None:
    result = docora.run("links", "--overdue", "--status", "failed", "--status", "scanning")
    assert (result.code, result.stdout) == (2, "")
    assert "failed and scanning links are never overdue" in result.stderr
    assert overdue(docora, "--status", "failed", "--status", "synced") == []


def test_nothing_moves_if_links_are_due_and_no_job_ends(docora: Docora) -> None:
    """Links that fail again and again are scanned by nobody, and yet a worker is at work."""
    link = docora.add_link()
    assert not nothing_moves(docora), "it was made just now"
    docora.age_links()
    assert nothing_moves(docora)
    found = check(examine(docora), "freshness")
    assert (found["state"], found["hint"]) == ("critical", "docora-ops queue")
    row = "\nFreshness\tnothing moves: 1 due, no good scan yet: docora-ops"
    assert f"{row} queue\n" in docora.run("status", env=ONE_LOOK).stdout
    docora.add_worker()  # an empty queue and idle workers say no more: no pass queues the link
    found = check(examine(docora), "freshness")
    assert found["hint"].startswith("a timer should run docora-ops schedule")
    assert f"{row} schedule\n" in docora.run("status", env=ONE_LOOK).stdout
    docora.redis.set("docora-ops:schedule", int(time.time()) - 200)  # not late yet
    assert f"{row} schedule\n" in docora.run("status", env=ONE_LOOK).stdout
    docora.enqueue("waiting")
    assert f"{row} queue\n" in docora.run("status", env=ONE_LOOK).stdout
    docora.redis.delete(docora.queue.key)
    record_failure(docora, link.job_id, minutes=20)
    assert nothing_moves(docora)
    record_failure(docora, "app_other-repo_other", minutes=1)
    assert not nothing_moves(docora)


def test_beside_bullmq_overdue_links_and_ended_jobs_are_seen_too(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    failed = docora.add_link()
    docora.age_links()
    fresh = bullmq.run("status", "--json").data["freshness"]
    assert (fresh["overdue"], fresh["nothing_moves"]) == (0, True)
    bullmq.fail(failed)
    fresh = bullmq.run("status", "--json").data["freshness"]
    assert not fresh["nothing_moves"]
    docora.add_link("synced", scanned=DAYS)
    result = bullmq.run("doctor", "--json", env=bullmq.environment(**ONE_LOOK))
    assert (result.code, check(result, "freshness")["state"]) == (6, "critical")
    assert check(result, "workers")["state"] == "critical"
    assert "no BullMQ worker is seen, and no job waits; " in check(result, "workers")["finding"]
    assert "names of their Redis clients" in check(result, "workers")["finding"]
    assert "none seen" in bullmq.run("status").stdout


def nothing_moves(docora: Docora) -> bool:
    return bool(numbers(docora.run("metrics"))["docora_nothing_moves"][()])


def record_failure(docora: Docora, job_id: str, *, minutes: int) -> None:
    """A job that has failed so many minutes ago."""
    job = docora.leave_job(job_id, JobStatus.FAILED)
    job.ended_at = now() - timedelta(minutes=minutes)
    job.save()


# The timer that must run `schedule`


@pytest.mark.parametrize(
    ("minutes", "waiting", "state", "told"),
    [
        (None, False, "warning", "no pass known; a timer should run: docora-ops schedule"),
        (4, False, "ok", "last pass 4m"),
        (17, True, "critical", "last pass 17m"),
        # Another program queues what is due: somebody has run `schedule` once by hand.
        (17, False, "warning", "last pass 17m"),
    ],
)
def test_the_last_pass_of_schedule_is_told_and_judged(
    docora: Docora, minutes: int | None, waiting: bool, state: str, told: str
) -> None:
    make_healthy(docora)
    docora.redis.delete("docora-ops:schedule")
    if minutes is not None:
        at = int(now().timestamp()) - 60 * minutes - 2
        docora.redis.set("docora-ops:schedule", at)
        told_at = numbers(docora.run("metrics"))["docora_schedule_last_pass_timestamp_seconds"]
        assert told_at == {(): at}
    if waiting:
        docora.add_link("synced", scanned=DAYS)
        docora.age_links()
    result = examine(docora)
    found = check(result, "schedule")
    assert (found["state"], result.code) == (state, 6 if state == "critical" else 0), result
    assert state == "ok" or "a timer should run docora-ops schedule" in found["hint"]
    assert f"Schedule\t{told}" in docora.run("status").stdout
    assert docora.run("status", "--json").data["schedule_state"] == state


def test_each_pass_of_schedule_leaves_its_time_for_a_week_even_if_nothing_is_due(
    docora: Docora,
) -> None:
    assert docora.run("schedule", "--dry-run").code == 0
    assert docora.redis.keys("docora-ops:*") == []
    assert docora.run("schedule").code == 0
    assert 7 * 86_400 - 100 < docora.redis.ttl("docora-ops:schedule") <= 7 * 86_400
    assert 0 <= docora.run("queue", "--json").data["last_pass_seconds"] < 100


def test_a_pass_that_takes_long_is_not_late_while_it_queues_links(docora: Docora) -> None:
    docora.add_links(2, status="pending_snapshot")
    steps = schedule(docora.actions(batch_size=1).docora)
    recorded = [docora.redis.delete("docora-ops:schedule") for step in steps]
    assert sum(recorded) == 2, recorded  # after each batch


def test_no_worker_is_critical_even_if_no_job_waits(docora: Docora) -> None:
    make_healthy(docora)
    assert examine(docora).code == 0
    docora.redis.delete("rq:workers", "rq:workers:snapshot-queue", "rq:queue:snapshot-queue")
    docora.connection.execute("DELETE FROM app_repositories WHERE status <> 'synced'")
    result = examine(docora)
    assert (result.code, check(result, "workers")["state"]) == (6, "critical"), result
    assert "no job waits" in check(result, "workers")["finding"]
