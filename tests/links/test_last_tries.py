"""`show` lists the last tries of a link; it and `failed --json` know when a link last failed."""

import re
from datetime import UTC, datetime

import pytest

from docora_ops.actions.link_lists import links
from docora_ops.jobs import JobEnd
from tests.support.bullmq import Bullmq
from tests.support.docora import Docora
from tests.support.outcomes import record, spread
from tests.support.snapshots import Snapshots
from tests.support.terminal import on_terminal

TWO_TRIES = {"MAX_RETRY_ATTEMPTS": "2"}


@pytest.mark.slow
def test_the_last_tries_of_a_link_are_shown(snapshots: Snapshots, docora: Docora) -> None:
    link, _ = snapshots.add_link({f"src/file-{number}.ts": "x\n" for number in range(9)})
    other = snapshots.link(link.app_id, docora.add_repository("octo/web", url="file:///missing"))
    answers = [200, 502] * 3
    snapshots.receiver.answer = lambda _: answers.pop(0) if answers else 200
    for _ in range(2):
        snapshots.queue(link, max_retry_attempts=2, retry_base_delay_ms=0)
        assert snapshots.work("--name", "w1", **TWO_TRIES).code == 0
    snapshots.queue(other, max_retry_attempts=1)
    assert snapshots.work(**TWO_TRIES).code == 0

    data = docora.run("show", *link.ids, "--json").data
    ends = [(end["outcome"], end["try_number"], end["created"]) for end in data["tries"]]
    assert ends == [
        ("synced", 2, 6),
        ("tried_again", 1, 1),
        ("failed_again", 2, 1),
        ("tried_again", 1, 1),
    ]
    assert {end["worker"] for end in data["tries"]} == {"w1"}
    assert data["failed_at"] is None
    for options in ((), ("--all",)):
        shown = docora.run("show", *link.ids, *options).stdout
        tries = [line for line in shown.splitlines() if line.startswith("Last tries\t")]
        assert len(tries) == 4
        at = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
        assert re.search(rf"{at}  synced, try 2 of 2, \d+\.\d s, 6 files$", tries[0])
        assert re.search(
            r"Z  failed again, try 2 of 2, \S+ s: HTTP 502 on created src/\S+, 1 file$", tries[2]
        )
    code, screen = on_terminal(docora, ["show", *link.ids], columns=80)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen).splitlines()
    cut = re.compile(r"Z  tried again, try 1 of 2, \d+\.\d s: HTTP 502 ")
    assert any(map(cut.search, lines)), screen
    assert (code, len(lines) < 24, max(map(len, lines)) <= 80) == (0, True, True), screen

    _, whole = on_terminal(docora, ["show", *link.ids, "--all"], columns=80)
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", whole).split())
    assert re.search(r"try 1 of 2, \S+ s: HTTP 502 on created src/\S+, 1 file ", words)

    recent = docora.run("status", "--json").data["recent_ends"]
    assert recent["by_outcome"] == {"synced": 1, "failed_again": 2, "tried_again": 2}
    text = f"\tsince {recent['since_at'][11:16]}Z: 1 synced, 2 failed again, 2 tried again\n"
    assert text in docora.run("status").stdout

    [failed] = docora.run("failed", "--json").data
    details = docora.run("show", *other.ids, "--json").data
    assert (
        failed["failed_at"] == details["failed_at"] == details["tries"][0]["ended_at"] is not None
    )
    docora.redis.delete("docora-ops:outcomes")
    assert [each["failed_at"] for each in docora.run("failed", "--json").data] == [None]


def test_beside_bullmq_failed_jobs_tell_when_links_failed(bullmq: Bullmq) -> None:
    link, unknown = bullmq.docora.add_link(), bullmq.docora.add_link()
    bullmq.fail(link)
    by_link = {each["app_id"]: each["failed_at"] for each in bullmq.run("failed", "--json").data}
    details = bullmq.run("show", *link.ids, "--json").data
    assert by_link[link.app_id] == details["failed_at"] == details["tries"][0]["ended_at"]
    assert by_link[unknown.app_id] is None
    assert "in the last 15m at least 1 failed\n" in bullmq.run("status").stdout
    shown = bullmq.run("show", *link.ids).stdout
    assert "\nFailed job\t" in shown
    assert "Last tries" not in shown


def test_lists_search_the_newest_failures(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docora_ops.queue.outcomes.MOST_SEARCHED", 10)
    recent, old, _without_entry = (docora.add_link("failed") for _ in range(3))
    minutes = {recent: 8, old: 12}  # entries of others came after these failures, one each minute
    now = datetime.now(UTC)
    failures = [
        each
        for link, before in minutes.items()
        for each in spread(now, [before], app_id=link.app_id, repository_id=link.repository_id)
    ]
    record(docora, [*failures, *spread(now, range(11), JobEnd.SYNCED)])
    page, _ = links(docora.actions().docora)
    assert [row.repository_id for row in page.rows if row.failed_at] == [recent.repository_id]
