"""`report`: the post-mortem of a time or of one operation, to be pasted into an issue."""

import os
import re
import signal
import time
from datetime import timedelta
from typing import Any, cast

import pytest
from markdown_it import MarkdownIt

from docora_ops.cli.report import code
from docora_ops.links import LinkFailure
from docora_ops.queue import operation_records
from tests.repair.test_verify import FILES, add
from tests.support.bullmq import Bullmq
from tests.support.docora import Docora, Result
from tests.support.hostile_texts import EVIL, OPERATION, TRICKS, fill_database, fill_redis
from tests.support.other_worker import end_job, other_worker
from tests.support.proxy import eventually, refused_port
from tests.support.read_only import frozen
from tests.support.running_commands import age_operation, only_operation
from tests.support.terminal import assert_inert, on_terminal

HOST = os.uname().nodename
GATEWAY = "HTTP 502 on created a.md"
AN_HOUR_LATER = ("docora:bulk:*", "docora-ops:operation:*:links")


PASS = ("schedule", "--reason", "the timer is dead")


def let_an_hour_pass(docora: Docora) -> None:
    for pattern in AN_HOUR_LATER:
        for key in docora.redis.keys(pattern):
            docora.redis.delete(key)


def retry_with_results(docora: Docora) -> str:
    """A bulk retry of four links: one is not queued, one fails again. Returns its id."""
    docora.add_links(4)
    first, second, *_ = docora.links()
    docora.redis.set(f"rq:job:{first.job_id}", "not a job")
    with other_worker(docora, lambda job_id: GATEWAY if job_id == second.job_id else None):
        result = docora.run(
            *("retry-all-failed", "--error", "500", "--wait", "--json"),
            *("--reason", "the gateway is back"),
        ).ended(7)
    return str(result.data["operation_id"])


def report(docora: Docora, *options: str) -> Result:
    result = docora.run("report", *options)
    assert (result.code, result.stderr) == (0, ""), result
    return result


def section(text: str, name: str) -> str:
    return text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_a_week_later_it_tells_who_did_what_and_why_and_what_failed_again(docora: Docora) -> None:
    operation_id = retry_with_results(docora)
    for command in (("pause", "--for", "10m", "--reason", "hands off"), ("resume",), PASS):
        assert docora.run(*command).code in {0, 6}
    let_an_hour_pass(docora)
    assert docora.run("operations", operation_id).code == 3
    with frozen(docora):
        text = report(docora, "--since", "2h").stdout
        data = report(docora, "--since", "2h", "--json").data
    who = f"\\w+@{re.escape(HOST)}"
    timeline = section(text, "Timeline").strip().splitlines()
    for line, told in zip(
        timeline,
        (
            rf": `{who}`: `retry-all-failed --error 500`; `1 not queued, 3 queued; 1 failed again, "
            rf"2 in sync`; reason: `the gateway is back`; operation `{operation_id}`",
            r"  - Not queued, the errors of 1 link:",
            r"    - 1 link of `App 1`: `.* does not hold a job.*`",
            r"    - the links: `App 1 ← octo/repo1`",
            r"  - Failed again, the errors of 1 link:",
            r"    - 1 link of `App 1`: `HTTP 502`",
            r"    - the links: `App 1 ← octo/repo2`",
            rf": `{who}`: `pause --for 10m`; reason: `hands off`",
            rf": `{who}`: `resume`",
            r"1 pass of `schedule` queued 3 links; the last: .*",
            "  - reason: `the timer is dead`",
        ),
        strict=True,
    ):
        moments = r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: to \d\d:\d\d:\d\d)?)?"
        assert re.fullmatch(f"(- )?{moments}{told}", line), line
    assert text.count(operation_id) == 1
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Open now", "Timeline", "Whom to tell", "Verified"]
    for line in (
        "  - `with 2 different errors: docora-ops failed --group-by error`",
        "  - `1  HTTP 500`",
        "  - `1  HTTP 502`",
        "- Links: `2 synced, 2 failed`",
        "- Queue: `3 waiting (the oldest for ",
    ):
        assert f"\n{line}" in section(text, "Open now"), text
    assert section(text, "Verified").startswith("\nNothing was compared. For proof ")
    [operation] = data["operations"]
    assert operation["failed_links"][0]["error_message"] == GATEWAY
    assert "does not hold a job" in operation["failures"][0]["error_message"]
    assert operation["results"] == {"synced": 2, "failed": 1, "gone": 0, "unfinished": 0}
    assert (operation["state"], operation["reason"]) == ("done", "the gateway is back")
    assert [each["command"] for each in data["changes"]] == ["retry-all-failed", "pause", "resume"]
    assert data["schedule"].items() >= {"passes": 1, "links": 3}.items()
    assert data["status"]["links_by_status"]["failed"] == 2


@pytest.mark.slow
def test_it_tells_of_one_operation_or_of_the_time_that_is_asked_for(docora: Docora) -> None:
    operation_id = retry_with_results(docora)
    docora.redis.hset("docora:bulk:bulk_0000000000000000", items=["total", 9, "completed", 1])
    docora.redis.expire("docora:bulk:bulk_0000000000000000", 3600)
    assert docora.run("retry-all-failed", "--error", "500").code == 6  # what can't be queued
    data = report(docora, "--operation", operation_id, "--json").data
    assert [each["operation_id"] for each in data["operations"]] == [operation_id]
    assert [each["operation_id"] for each in data["changes"]] == [operation_id]
    dashboards = report(docora, "--operation", "bulk_0000000000000000").stdout
    assert "- Docora's dashboard, which does not record more; operation " in dashboards
    everything = report(docora, "--json").data["operations"]
    assert {"bulk_0000000000000000", operation_id} < {each["operation_id"] for each in everything}
    assert len(everything) == 3
    for each in everything:
        if each["who"]:
            age_operation(docora, each["operation_id"], 86_400)
    assert len(report(docora, "--since", "23h", "--json").data["operations"]) == 1
    assert report(docora, "--since", "0s", "--json").data["changes"] == []
    unknown, both, wrong, future = docora.run_together(
        ("report", "--operation", "bulk_unknown", "--json"),
        ("report", "--operation", operation_id, "--since", "2h", "--json"),
        ("report", "--since", "lately", "--json"),
        ("report", "--since", "2999-01-01T12:00+01:00", "--json"),
    )
    assert (unknown.code, unknown.json["code"]) == (3, "not_found")
    assert (both.code, wrong.code, both.json["code"], wrong.json["code"]) == (2, 2, *2 * ["usage"])
    assert "neither a moment, such as" in wrong.json["error"]
    assert (future.code, "2999-01-01T11:00:00.000Z is in the" in future.json["error"]) == (2, True)
    no_database = f"postgres://u@127.0.0.1:{refused_port()}/docora"
    down = docora.run("report", "--since", "2d", "--verify", env={"DATABASE_URL": no_database})
    assert down.code == 5
    assert section(down.stdout, "Verified") == "\nNothing was compared.\n"
    assert f"operation `{operation_id}`" in down.stdout


def test_beside_bullmq_it_tells_what_was_reset(bullmq: Bullmq) -> None:
    bullmq.docora.add_link()
    assert bullmq.run("retry-all-failed", "--reason", "the token is back").code == 0
    found = bullmq.run("report", "--json").data
    [operation], [change] = found["operations"], found["changes"]
    assert operation["reason"] == change["reason"] == "the token is back"
    assert (operation["put_to_work"], change["counts"]) == (1, {"total": 1, "reset": 1})
    assert operation["results"] is None
    text = bullmq.run("report").stdout
    assert "  - Results: not known, nobody has waited for the snapshots" in text.splitlines()


def test_a_run_that_was_killed_is_remembered_with_what_failed_until_then(docora: Docora) -> None:
    docora.add_links(4)
    with docora.start("retry-all-failed", "--in-flight", "1", "--reason", "in haste") as process:
        eventually(docora.waiting, "a job")
        first = docora.waiting()[0]
        end_job(docora, first, GATEWAY)
        eventually(docora.waiting, "the next job")
        eventually(
            lambda: docora.run("report", "--json").data["operations"][0]["failed_links"], "it"
        )
        process.send_signal(signal.SIGKILL)
    operation_id = only_operation(docora)
    age_operation(docora, operation_id, 3_600)
    [operation] = report(docora, "--since", "61m", "--json").data["operations"]
    assert (operation["state"], operation["results"]["failed"]) == ("owner_gone", 1)
    assert [each["job_id"] for each in operation["failed_links"]] == [first]
    assert report(docora, "--since", "59m", "--json").data["operations"] == []


@pytest.mark.parametrize("end", ["an hour later", "cancelled"])
def test_a_killed_operation_is_open_until_cancelled_or_an_hour(docora: Docora, end: str) -> None:
    docora.add_links(3)
    with docora.start("retry-all-failed", "--in-flight", "1") as process:
        eventually(docora.waiting, "a job")
        process.send_signal(signal.SIGKILL)
    operation_id = only_operation(docora)
    age_operation(docora, operation_id, 10 * 60)
    see = f"of 3`: `docora-ops operations {operation_id}`\n"
    assert see in section(report(docora).stdout, "Open now")
    if end == "cancelled":
        assert docora.run("cancel", operation_id).code == 0
    else:
        age_operation(docora, operation_id, 3_700)
    after = report(docora).stdout
    assert operation_id in section(after, "Timeline")
    assert operation_id not in section(after, "Open now")


def test_records_and_their_failures_are_bounded_and_end_after_a_week(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_records, "RECORDS_KEPT", 3)
    monkeypatch.setattr(operation_records, "FAILURES_OF_RECORD", 2)
    docora.add_links(5)
    for link in docora.links():
        docora.redis.set(f"rq:job:{link.job_id}", "not a job")
    actions = docora.actions()
    ids = [actions.retry_all().operation_id for _ in range(5)]
    lives = {
        key: docora.redis.pttl(key)
        for pattern in (b"docora-ops:operation:*:record", b"docora-ops:operations")
        for key in cast("list[bytes]", docora.redis.keys(pattern))
    }
    kept = [f"docora-ops:operation:{each}:record".encode() for each in ids[2:]]
    assert lives.keys() == {*kept, b"docora-ops:operations"}
    assert all(7 * 86_400_000 - 60_000 < life <= 7 * 86_400_000 for life in lives.values())
    assert docora.redis.xlen("docora-ops:operations") == 3
    data = report(docora, "--operation", str(ids[4]), "--json").data["operations"][0]
    assert (data["not_queued"], len(data["failures"])) == (5, 2)
    assert docora.redis.ttl(f"docora:bulk:{ids[0]}") <= 3600


def spans(text: str) -> tuple[set[str], list[str], list[str]]:
    """The kinds of tokens of a Markdown text, its code spans, and its plain texts."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    inner = [child for token in tokens for child in token.children or ()]
    codes = [each.content for each in inner if each.type == "code_inline"]
    texts = [each.content for each in inner if each.type == "text"]
    return {each.type for each in (*tokens, *inner)}, codes, texts


HARMLESS = {
    f"{kind}_{end}"
    for kind in ("heading", "paragraph", "bullet_list", "list_item")
    for end in ("open", "close")
} | {"inline", "text", "softbreak", "code_inline"}
MARKDOWN = (
    "`", "``a` `", " `x` ", "", " ", "  two  ", "\\`", "@octo/team #1 octo/api#2 GH-3",
    "![i](https://evil.example/i.png) [l](https://evil.example) <b onclick=x> <https://a.example>",
    "https://evil.example www.evil.example a@evil.example 0123456789abcdef0123456789abcdef01234567",
    "- [ ] x", "***", "# h", "| a | b |", "&amp; &#64; :boom:", "a  \nb", "```\nx\n```", "$`x`$",
)  # fmt: skip


@pytest.mark.parametrize("text", [*MARKDOWN, *TRICKS, EVIL], ids=lambda text: ascii(text)[:20])
def test_a_code_span_gives_back_the_text_and_forms_nothing_else(text: str) -> None:
    kinds, codes, texts = spans(f"- it: {code(text)}; and {code('b')}")
    assert kinds <= HARMLESS
    assert texts == ["it: ", "; and "]
    assert codes[1] == "b"
    assert_inert(codes[0])


@pytest.mark.slow
def test_whatever_is_in_the_stores_forms_no_link_image_mention_or_html(docora: Docora) -> None:
    fill_database(docora)
    fill_redis(docora)
    for number, trick in enumerate((*MARKDOWN, *TRICKS)):
        entry: dict[Any, Any] = {"total": 9, "completed": 3, "who": trick, "command": trick}
        entry |= {"reason": trick, "started_at": 1, "stopped_by": trick, "cancelled_by": trick}
        entry["stepped_at"] = int(time.time() * 1000)
        entry["failed_links"] = operation_records.compressed(
            [LinkFailure("job", "app", "repo", trick, trick, trick)]
        )
        id_ = trick if number % 2 else f"bulk_{number}"
        docora.redis.hset(f"docora-ops:operation:{id_}:record", mapping=entry)
        docora.redis.expire(f"docora-ops:operation:{id_}:record", 7 * 86_400)
        docora.redis.xadd("docora-ops:operations", {"operation_id": id_})
    docora.redis.hset(f"docora-ops:operation:{OPERATION}:record", "failed_links", b"\xff")
    for options in ((), ("--operation", OPERATION), ("--operation", MARKDOWN[7])):
        result = report(docora, *options)
        assert_inert(result.stdout)
        kinds, _, texts = spans(result.stdout)
        assert kinds <= HARMLESS
        suspicious = re.compile(r"[@#<>&*_|~$\[\]]|://|www\.|[0-9a-f]{7}|evil", re.IGNORECASE)
        assert [text for text in texts if suspicious.search(text)] == []
    document = docora.run("report", "--json")
    assert (document.code, document.stdout.isascii()) == (0, True)


def test_at_a_narrow_terminal_no_line_is_broken(docora: Docora) -> None:
    """A line that is broken may begin with what means something."""
    docora.add_links(1)
    reason = "- a reason longer than a line of the terminal # 1 " * 3 + "end"
    assert docora.run("retry-all-failed", "--reason", reason).code == 0
    code, shown = on_terminal(docora, ["report"], columns=40, lines=500)
    assert code == 0
    assert f"; reason: `{reason}`; operation " in shown
    assert "\x1b" not in shown


def test_with_verify_it_proves_what_was_delivered(docora: Docora) -> None:
    add(docora, FILES, FILES)
    add(docora, {}, {"a.md": "ab"})
    env = {"DOCORA_OPS_DRIFT_GRACE": "0"}
    result = docora.run("report", "--verify", env=env).ended(6)
    proof = section(result.stdout, "Verified")
    assert "1 link differs, 1 link proven" in proof
    assert ": 1 missing, 0 outdated, 0 extra" in proof
    assert docora.run("report", "--verify", "--json", env=env).data["verification"]["proven"] == 1


def test_an_end_on_another_day_is_told_with_its_date(docora: Docora) -> None:
    entry: dict[Any, Any] = {"who": "kim", "command": "repair", "run": "r", "selection": "{}"}
    docora.redis.xadd("docora-ops:audit", {**entry, "event": "started"}, id="1764288000000-0")
    docora.redis.xadd("docora-ops:audit", {**entry, "event": "ended"}, id="1764381600000-0")
    shown = report(docora, "--since", "2025-11-28").stdout
    assert "- 2025-11-28 00:00:00 to 2025-11-29 02:00:00: `kim`" in shown


def test_it_begins_with_what_is_open_and_says_so_where_nothing_is(docora: Docora) -> None:
    docora.add_worker()
    docora.redis.hset("rq:worker:worker-1", "obeys_holds", 1)
    docora.add_link("synced", scanned=timedelta(seconds=5))
    first = section(report(docora).stdout, "Open now").splitlines()[1]
    assert re.fullmatch(r"`1 link is in sync, oldest scan \S+ ago`", first), first
    app_id = docora.add_link("scanning", retry_count=0).app_id
    lost = docora.run("report", env={"DOCORA_OPS_DRIFT_GRACE": "0"})
    assert "- Drift: `0 lost links, 1 stuck: docora-ops repair`" in section(lost.stdout, "Open now")
    assert docora.run("repair", env={"DOCORA_OPS_DRIFT_GRACE": "0"}).code == 0
    waits = section(report(docora).stdout, "Open now")
    assert "- Queue: `1 waiting" in waits
    assert docora.run("hold", app_id, "--reason", "their disk is full", "--yes").code == 0
    held = section(report(docora).stdout, "Open now")
    assert re.search(r"- Held: `App \d+, .*: their disk is full`$", held, re.MULTILINE), held


def test_a_schedule_that_has_stopped_is_open(docora: Docora) -> None:
    docora.add_worker()
    docora.add_link("synced", scanned=timedelta(minutes=12))
    docora.age_links()
    docora.redis.set("docora-ops:schedule", int(time.time()) - 20 * 60)
    still = section(docora.run("report").stdout, "Open now")
    assert "`no pass of docora-ops schedule for 20m: 1 link due`\n" in still
    assert "- Schedule: `last pass 20m ago; a timer should run: docora-ops schedule`\n" in still
