"""Doctor's look at where database and queue disagree."""

from tests.support.diagnoses import ONE_LOOK, check, make_healthy, not_ok
from tests.support.docora import Docora


def test_each_kind_of_drift_is_counted_with_examples(docora: Docora) -> None:
    """That each kind is found at all: tests/repair/test_every_kind_of_drift.py."""
    make_healthy(docora)
    for _ in range(7):
        docora.add_link("pending_snapshot")
    docora.add_link("scanning")
    docora.age_links()
    before = docora.dump()
    document, table = (docora.run("doctor", *options, env=ONE_LOOK) for options in (["--json"], []))
    assert docora.dump() == before
    assert document.code == table.code == 6, document
    drift = document.data["drift"]
    none = dict.fromkeys(["orphan", "duplicate", "stale_entry"], 0)
    assert (drift["total"], drift["counts"]) == (8, {"lost": 7, "stuck": 1, **none})
    assert [example["kind"] for example in drift["examples"]] == [*["lost"] * 5, "stuck"]
    assert not_ok(document) == dict.fromkeys(["drift_lost", "drift_stuck"], "critical")
    assert check(document, "drift_lost")["hint"] == "docora-ops repair"
    lines = table.stdout.splitlines()
    assert "7 pending links" in table.stdout
    assert lines[-1] == "2 critical."
    # Few of each kind, so that the checks stay on the screen.
    assert sum(line.startswith("lost\t") for line in lines) == 2
