"""Commands killed at random beside live workers: no link is lost, none is run twice at once."""

import random
import sys
import time

import pytest

from tests.support.docora import Docora, finish
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.proxy import eventually

QUICK = {"DOCORA_OPS_DRIFT_GRACE": "1", "RESCAN_INTERVAL_MS": "1000"}
COMMANDS = (
    *[("retry-all-failed", "--yes")] * 4,
    ("retry-all-failed", "--yes", "--limit", "50"),
    ("retry-all-failed", "--yes", "--app", "App 1"),
    ("resync", "App 2", "--all", "--yes"),
    ("repair", "--yes"),
    ("schedule",),
)
AT_ONCE = 3


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_commands_killed_at_random_beside_live_workers(docora: Docora, seconds: int) -> None:
    chance = random.Random(seconds)
    docora.add_links(1_500, apps=5)
    workers = [
        docora.start_program(sys.executable, "-m", "tests.changes.verdicts", str(seed))
        for seed in range(2)
    ]
    kills = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        running = [docora.start(*chance.choice(COMMANDS), env=QUICK) for _ in range(AT_ONCE)]
        for process in running:
            if chance.random() < 0.8:  # at any moment of its work
                time.sleep(chance.random() / 4)
                process.kill()
                kills += 1
            finish(process)
    assert docora.run("repair", "--yes", env=QUICK).code == 0
    assert all(worker.poll() is None for worker in workers)
    eventually(
        lambda: set(docora.statuses()) <= {"synced", "failed"} and not docora.waiting(),
        f"every link to have a result after {kills} kills: {docora.statuses()}",
    )
    assert docora.redis.get("test:twice") is None
    assert int(docora.redis.get("test:done") or 0) > 1_000
    docora.assert_sound()


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
