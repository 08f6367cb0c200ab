"""Doctor's look at where database and queue disagree."""

import signal
from typing import Any

from rq.utils import now

from tests.support.diagnoses import OF_DRIFT, ONE_LOOK, check, make_healthy, not_ok
from tests.support.docora import QUEUE, Docora, finish


def test_each_kind_of_drift_is_counted_with_examples(docora: Docora) -> None:
    make_healthy(docora)
    lost = [docora.add_link("pending_snapshot") for _ in range(7)]
    stuck = docora.add_link("scanning")
    docora.age_links()
    orphan = docora.add_link("failed")
    docora.actions().retry(orphan)
    docora.connection.execute("DELETE FROM app_repositories WHERE app_id = %s", (orphan.app_id,))
    twice = docora.add_link("synced")
    docora.enqueue(twice.job_id)
    docora.redis.rpush(docora.queue.key, twice.job_id)
    stale = docora.add_link("synced")
    docora.redis.zadd(f"rq:failed:{QUEUE}", {stale.job_id: now().timestamp() + 3600})
    before = docora.dump()
    document, table = (docora.run("doctor", *options, env=ONE_LOOK) for options in (["--json"], []))
    assert docora.dump() == before
    assert document.code == table.code == 6, document
    drift = document.data["drift"]
    assert drift["counts"] == {
        "lost": 7,
        "stuck": 1,
        "orphan": 1,
        "duplicate": 1,
        "stale_entry": 1,
    }
    assert drift["total"] == 11
    expected = {
        "stuck": stuck,
        "orphan": orphan,
        "duplicate": twice,
        "stale_entry": stale,
    }
    by_kind: dict[str, list[Any]] = {}
    for example in drift["examples"]:
        assert example.keys() == {
            *("kind", "job_id", "app_id", "app_name", "repository_id", "repository_name", "detail")
        }
        by_kind.setdefault(example["kind"], []).append(example["job_id"])
    assert len(by_kind["lost"]) == 5
    assert set(by_kind["lost"]) < {link.job_id for link in lost}
    for kind, link in expected.items():
        assert by_kind[kind] == [link.job_id]
    assert not_ok(document) == {
        **dict.fromkeys(OF_DRIFT, "critical"),
    }
    for name in OF_DRIFT:
        assert check(document, name)["hint"] == "docora-ops repair"
    assert "7 pending links" in table.stdout
    assert f"App {int(twice.app_id[4:], 16) - 1} ← octo/repo" in table.stdout
    lines = table.stdout.splitlines()
    assert lines[-1] == "5 critical."
    # One of each kind, so that the checks stay on the screen.
    assert sum(line.startswith("lost\t") for line in lines) == 1


def test_an_interrupt_while_it_waits_for_the_second_look_ends_it(docora: Docora) -> None:
    docora.add_link("pending_snapshot")
    docora.age_links()
    with docora.start("doctor", "--json", env={"DOCORA_OPS_DRIFT_GRACE": "600"}) as process:
        assert "checking again in 600 s" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        result = finish(process)
    assert (result.code, result.json["code"]) == (130, "interrupted"), result


def test_what_was_wrong_at_the_first_look_only_does_not_count(docora: Docora) -> None:
    make_healthy(docora)
    link = docora.add_link("pending_snapshot")
    docora.age_links()
    with docora.start("doctor", "--json", env={"DOCORA_OPS_DRIFT_GRACE": "3"}) as process:
        assert process.stderr.readline() == "1 mismatch at first check: checking again in 3 s.\n"
        docora.enqueue(link.job_id)
        result = finish(process)
    assert result.code == 0, result
    assert result.data["drift"]["total"] == 0
