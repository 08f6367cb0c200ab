"""Commands and workers killed, servers crashed at random: no link is lost, none is doubled."""

import random
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from tests.changes.misfortunes import Workers, crashing_postgres, crashing_redis
from tests.support.docora import COMMAND, Docora, finish
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.proxy import eventually
from tests.support.receiver import Request
from tests.support.snapshots import FILES, Snapshots
from tests.support.worker_processes import expire, running_program

QUICK = {"DOCORA_OPS_DRIFT_GRACE": "1", "RESCAN_INTERVAL_MS": "1000", "SCAN_INTERVAL_MS": "500"}
QUICK |= {"RETRY_BASE_DELAY_MS": "100", "MAX_RETRY_ATTEMPTS": "3"}
VERDICTS = (sys.executable, "-m", "tests.changes.verdicts")
HASTY_WORKER = (sys.executable, "-m", "tests.changes.hasty_worker")
UNDELIVERED = """
    SELECT count(*) FROM app_repositories l WHERE status = 'synced' AND 2 > (
        SELECT count(*) FROM app_delivered_files f
        WHERE f.app_id = l.app_id AND f.repository_id = l.repository_id)
"""


def run_and_kill(docora: Docora, env: dict[str, str | None], *codes: int) -> None:
    """Runs some commands at once, and kills most of them. The others end with one of `codes`."""
    app, repository = random.choice(docora.links()).ids
    commands = (
        *[("retry-all-failed", "--yes")] * 4,
        ("retry-all-failed", "--yes", "--limit", "50"),
        ("retry-all-failed", "--yes", "--app", app),
        *[("resync", app, "--all", "--yes")] * 2,
        *[(action, app, repository) for action in ("retry", "resync", "repair")],
        *[("repair", "--yes"), ("schedule",)],
    )
    running = [docora.start(*random.choice(commands), env=env) for _ in range(3)]
    for process in running:
        if random.random() < 0.8:
            time.sleep(random.random() / 4)
            process.kill()
        result = finish(process)
        assert result.code in {-SIGKILL, *codes}, result


def await_results(docora: Docora) -> None:
    eventually(
        lambda: set(docora.statuses()) <= {"synced", "failed"} and not docora.live_jobs(),
        f"every link to have a result: {docora.statuses()}",
    )


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("links", [50, 1_100])  # of few, workers take each as soon as it is pushed
def test_commands_killed_beside_live_workers(docora: Docora, links: int, seconds: int) -> None:
    docora.add_links(links, apps=5)
    workers = [docora.start_program(*VERDICTS, str(seed)) for seed in range(2)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        run_and_kill(docora, {**QUICK}, 0, 4, 6)
        docora.assert_sound()
    await_results(docora)
    assert all(worker.poll() is None for worker in workers)
    assert docora.redis.get("test:twice") is None
    assert int(docora.redis.get("test:done") or 0) > links / 5


class Apps:
    """Answer slowly, and sometimes with an error. `twice`: links with two POSTs at once."""

    def __init__(self) -> None:
        self.twice: list[object] = []
        self._at_work: set[object] = set()

    def answer(self, request: Request) -> int:
        link = (request.app, request.json["repository"]["name"])
        if link in self._at_work:
            self.twice.append(link)
        self._at_work.add(link)
        time.sleep(random.random() / 50)
        self._at_work.discard(link)
        return 200 if random.random() < 0.8 else 500


def add_links(snapshots: Snapshots) -> None:
    upstream = snapshots.add_upstream("octo/one")
    upstream.commit(FILES)
    apps = [snapshots.add_app(f"App{number}") for number in range(8)]
    for number in range(10):
        url = upstream.url + "/" * number
        repository = snapshots.docora.add_repository(f"octo/copy{number}", url=url)
        for app in apps:
            snapshots.link(app, repository)


@pytest.mark.slow
@pytest.mark.parametrize(
    "trouble", ["workers", "redis", "postgres", pytest.param("proxy", marks=needs_pgbouncer)]
)
def test_workers_and_servers_in_trouble(snapshots: Snapshots, tmp_path: Path, trouble: str) -> None:
    with ExitStack() as stack:
        docora, apps, crash = snapshots.docora, Apps(), None
        if trouble == "redis":
            docora, crash = stack.enter_context(crashing_redis(docora, tmp_path))
        elif trouble == "postgres":
            docora, crash = stack.enter_context(crashing_postgres(docora))
        snapshots.docora, snapshots.receiver.answer = docora, apps.answer
        add_links(snapshots)
        env = snapshots.environment(**QUICK, SCAN_CONCURRENCY="2")
        if trouble == "proxy":
            env["DATABASE_URL"] = stack.enter_context(pgbouncer(docora.database_url))
        program = (str(COMMAND),) if crash else HASTY_WORKER
        workers = Workers(
            lambda: stack.enter_context(running_program([*program, "worker"], snapshots, **env))
        )
        workers.begin()
        workers.begin()
        misfortunes = [*[workers.kill_process] * 3, workers.kill_pool, workers.kill_all]
        misfortunes += [crash] * 4 if crash else []
        misfortunes += [workers.pause] * 2 if trouble != "proxy" else []
        # A process may be paused between giving up its lease and RQ's last writes. If it wakes up
        # after its execution has expired, its job may stand twice; the second one ends quietly.
        may_double = trouble == "workers"
        schedule = docora.start("schedule", "--repeat", env=env)
        end = time.monotonic() + 15
        while time.monotonic() < end:
            run_and_kill(docora, env, 0, 4, 5, 6)
            assert may_double or docora.doubled_jobs() == []
            random.choice(misfortunes)()
        docora.redis.delete("docora-ops:schedule")
        eventually(lambda: docora.redis.get("docora-ops:schedule"), "a further pass of schedule")
        finish(schedule, SIGTERM).ended(130)
        workers.end()
        expire(docora)
        for step in random.sample((workers.wake, workers.begin), 2):
            step()
        eventually(lambda: not docora.live_jobs(), "the end of all jobs")
        docora.run("repair", "--yes", env=env).ended(0)
        await_results(docora)
        workers.end()
        assert apps.twice == []
        assert docora.one(UNDELIVERED) == 0


@needs_pgbouncer
def test_commands_behind_a_proxy_that_pools_transactions(docora: Docora) -> None:
    docora.add_links(1_200, apps=3)
    link = docora.links()[0]
    with pgbouncer(docora.database_url) as url:
        env = QUICK | {"DATABASE_URL": url}
        docora.run("retry", *link.ids, env=env).ended(0)
        results = docora.run_together(*[("retry-all-failed", "--yes")] * 3, env=env)
        assert {result.code for result in results} == {0}
        for words in (("status",), ("failed",), ("show", *link.ids), ("verify",), ("schedule",)):
            docora.run(*words, env=env).ended(0)
    assert docora.statuses() == {"pending_snapshot": 1_200}
    assert len(docora.waiting()) == 1_200
    docora.assert_sound()
