"""The audit history: who changed what, when and why; and `docora-ops history`."""

import json
import os
import pwd
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rq.job import JobStatus

from docora_ops.operations import Change
from docora_ops.queue.audit_stream import AuditEvent, add_entry, audit_entry
from tests.support.docora import Docora
from tests.support.terminal import at_terminals, plain_data

NO_DATABASE = {"DATABASE_URL": None}
HOST = os.uname().nodename
STREAMS = ("docora-ops:audit", "docora-ops:audit:schedule")


def history(docora: Docora, *options: str) -> list[Any]:
    result = docora.run("history", "--json", *options, env=NO_DATABASE)
    assert (result.code, result.stderr) == (0, ""), result
    return list(result.data)


def test_each_command_leaves_who_how_and_why_with_its_change(docora: Docora) -> None:
    links = [docora.add_link() for _ in range(4)]
    docora.enqueue(links[1].job_id)
    docora.leave_job(links[3].job_id, "failed")  # type: ignore[arg-type]
    due = docora.add_link("pending_snapshot")
    began = datetime.now(UTC) - timedelta(seconds=5)
    waiting = "bulk_0123456789abcdef"
    docora.redis.hset(f"docora:bulk:{waiting}", "total", "9")
    both = ("--front", "--reset-circuit")
    commands = (
        ("retry", *links[0].ids, "--front", "--reason", "r1"),
        ("retry", *links[1].ids),
        ("retry-all-failed", "--error", "http 500", "--limit", "2", "--front", "--reason", "r2"),
        ("resync", *links[0].ids, "--reset-circuit", "--reason", "r3"),
        ("resync", links[2].app_id, "--all", "--yes", *both, "--reason", "r4"),
        ("schedule", "--reason", "r5"),
        ("cancel", waiting, "--reason", "r6"),
    )
    results = [docora.run(*command, "--json") for command in commands]
    assert [result.code for result in results] == [0] * len(commands), results
    found = history(docora)
    assert all(each["who"].endswith(f"@{HOST}") for each in found)
    moments = [datetime.fromisoformat(each["started_at"]) for each in found]
    assert moments == sorted(moments, reverse=True)
    assert began < moments[-1] <= moments[0] < datetime.now(UTC) + timedelta(seconds=5)
    assert {each["state"] for each in found} == {"done"}
    fields = ("command", "reason", "operation_id", "counts")
    bulk, whole = (results[number].data["operation_id"] for number in (2, 4))
    one = {"total": 1, "already_queued": 1}
    assert [tuple(each[name] for name in fields) for each in found[::-1]] == [
        ("retry", "r1", None, {"total": 1, "queued": 1}),
        ("retry", None, None, one),
        ("retry-all-failed", "r2", bulk, {"total": 2, "queued": 1, "replaced_stale": 1}),
        ("resync", "r3", None, one),
        ("resync", "r4", whole, one),
        # All that is pending is due; one alone had no job.
        ("schedule", "r5", None, {"total": 5, "already_queued": 4, "queued": 1}),
        ("cancel", "r6", waiting, {}),
    ]
    selections = [each["selection"] for each in found[::-1]]
    assert (selections[0]["repository_id"], selections[0]["front"]) == (links[0].ids[1], True)
    assert selections[2] == {"error": ["http 500"], "limit": 2, "front": True}
    assert (selections[4]["all"], selections[4]["app_id"]) == (True, links[2].app_id)
    assert due.job_id in docora.waiting()
    assert [each["command"] for each in history(docora, "--limit", "2")] == ["cancel", "schedule"]
    assert "schedule" not in {each["command"] for each in history(docora, "--no-schedule")}
    stored = json.dumps([docora.audit_entries(stream) for stream in STREAMS])
    assert "encrypted" not in stored


@pytest.mark.slow
def test_options_choose_the_changes_of_a_time_an_operation_or_an_app(docora: Docora) -> None:
    app_id = docora.add_app("Acme Search")
    links = [docora.link(app_id, docora.add_repository(f"octo/r{number}")) for number in range(3)]
    other = docora.add_link()
    assert docora.run("retry", *links[0].ids, "--reason", "r1").code == 0
    began = datetime.now(UTC)
    one = docora.run("retry-all-failed", "--app", "acme search", "--reason", "r2", "--json")
    docora.redis.hset(f"docora:bulk:{one.data['operation_id']}", "completed", "1")
    assert docora.run("cancel", one.data["operation_id"], "--reason", "r3").code == 0
    assert docora.run("retry-all-failed", "--reason", "r4").code == 0
    assert docora.run("retry", *other.ids, "--reason", "r5").code == 4
    # Began before, ended since then; did not end; and a bulk operation that is still running.
    entry: dict[Any, Any] = {"who": "kim@ops1", "command": "repair", "run": "long"}
    entry |= {"selection": '{"app_id": "app_9", "app_name": "Straße"}', "reason": "r6"}
    docora.redis.delete(STREAMS[1])
    hours_ago = int((began - timedelta(hours=3)).timestamp() * 1000)
    docora.redis.xadd(STREAMS[1], {**entry, "event": "started"}, id=f"{hours_ago}-1")
    docora.redis.xadd(STREAMS[1], {**entry, "event": "started", "run": "x"}, id=f"{hours_ago}-2")
    bulk = {"selection": "{}", "run": "bulk", "operation_id": one.data["operation_id"]}
    running: dict[Any, Any] = {**entry, **bulk, "reason": "r7", "event": "started"}
    docora.redis.xadd(STREAMS[1], running, id=f"{hours_ago}-3")
    docora.redis.xadd(STREAMS[1], {**entry, "event": "ended"})
    everything = [each["reason"] for each in history(docora)]
    assert sorted(everything) == ["r1", "r2", "r3", "r4", "r6", "r6", "r7"]
    for options, reasons in (
        (("--since", "1h"), ["r1", "r2", "r3", "r4", "r6", "r7"]),
        (("--since", "4h"), ["r1", "r2", "r3", "r4", "r6", "r6", "r7"]),
        (("--since", began.isoformat()), ["r2", "r3", "r4", "r6", "r7"]),
        (("--since", "0s"), []),
        (("--operation", one.data["operation_id"]), ["r2", "r3", "r7"]),
        (("--app", "Acme Search"), ["r1", "r2"]),
        (("--app", app_id.upper()), ["r1"]),
        (("--app", "STRASSE", "--since", "1h"), ["r6"]),
        (("--app", "Acme", "--no-schedule"), []),
    ):
        found = history(docora, *options)
        assert sorted(each["reason"] for each in found) == reasons, options
    [ended] = history(docora, "--app", "app_9", "--since", "1h")
    assert ended["ended_at"] > ended["started_at"]
    assert history(docora, "--app", "app_9")[-1]["ended_at"] is None
    docora.redis.delete(f"docora:bulk:{one.data['operation_id']}")
    assert len(history(docora, "--operation", one.data["operation_id"], "--since", "0s")) == 0
    docora.run("history", "--operation", "bulk_x", "--json").ended(3, "not_found")
    future = docora.run("history", "--since", "2999-01-01", "--json")
    assert (future.code, "is in the future: it is 20" in future.json["error"]) == (2, True), future
    for wrong in ("2 h", "-1h", "1w", "0001-01-01T00:00+12:00", "tomorrow", "25:12", "1e3s"):
        result = docora.run("history", f"--since={wrong}", "--json", env=NO_DATABASE)
        assert (result.code, result.json["code"]) == (2, "usage"), wrong


def test_what_changes_nothing_leaves_nothing(docora: Docora) -> None:
    nothing = docora.run("retry-all-failed", "--reason", "none")
    docora.add_link()
    synced = docora.add_link("synced", scanned=timedelta(0))
    running = docora.add_link()
    docora.start_job(running.job_id)
    done = "bulk_0123456789abcdef"
    docora.redis.hset(f"docora:bulk:{done}", "total", "0")
    results = docora.run_together(
        ("retry", *synced.ids),
        ("retry", *running.ids),
        ("resync", *running.ids),
        ("retry-all-failed", "--dry-run", "--reason", "only a look"),
        ("cancel", done),
        ("cancel", "bulk_unknown"),
    )
    assert [result.code for result in (nothing, *results)] == [0, 4, 0, 4, 0, 4, 3]
    # Due, and queued already: nothing for a pass to do.
    docora.connection.execute("DELETE FROM app_repositories WHERE status <> 'synced'")
    waiting = docora.add_link("pending_snapshot")
    docora.enqueue(waiting.job_id)
    passed = docora.run("schedule", "--json")
    assert (passed.code, passed.data["already_queued"]) == (0, 1)
    assert docora.redis.exists(*STREAMS) == 0
    assert docora.run("history", env=NO_DATABASE).ended(0).stderr.endswith(": no changes.\n")


def test_a_change_that_a_running_job_keeps_out_writes_nothing(docora: Docora) -> None:
    link = docora.add_link()
    docora.start_job(link.job_id)
    tables, keys = docora.dump()
    for command in (("retry", *link.ids), ("schedule",)):
        docora.run(*command, "--json").ended(0)
        passed = docora.redis.delete("docora-ops:schedule")
        assert passed == (command == ("schedule",))
        assert docora.dump() == (tables, keys), command


def test_a_change_that_is_refused_in_redis_leaves_neither_job_nor_entry(docora: Docora) -> None:
    """The stream's key holds something else: found out before anything is changed."""
    link = docora.add_link()
    docora.leave_job(link.job_id, JobStatus.FAILED)
    docora.queue_job(docora.add_link("synced", scanned=timedelta(0)))
    for stream in STREAMS:
        docora.redis.set(stream, "not a stream")
    before = docora.dump()[1]
    for arguments in (("retry", *link.ids), ("schedule",), ("history",)):
        result = docora.run(*arguments, env={"DOCORA_OPS_DRIFT_GRACE": "0"}).ended(5)
        assert "wrong kind" in result.stderr
        after = docora.dump()[1]
        # RQ's set of queues is what the script begins with.
        assert {**after, b"rq:queues": None} == {**before, b"rq:queues": None}, arguments
        assert docora.status(link) == "failed"


def test_the_stream_is_capped(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docora_ops.queue.audit_stream.ENTRIES_KEPT", 100)
    change = Change("kim@ops1", "cancel", {})
    for number in range(250):
        entry = audit_entry(change, AuditEvent.DONE, operation_id=f"bulk_{number}")
        add_entry(docora.redis, entry)
    # About so many: Redis drops whole nodes of a hundred.
    assert 100 <= docora.redis.xlen(STREAMS[0]) <= 200


def test_a_reset_whose_commit_fails_is_never_shown_as_done(docora: Docora) -> None:
    link = docora.add_link()
    docora.enqueue(link.job_id)
    docora.refuse_at_commit()
    commands = [(command, *link.ids) for command in ("retry", "resync")]
    assert [docora.run(*command).code for command in commands] == [5, 5]
    assert docora.statuses() == {"failed": 1}
    for entry in history(docora):
        assert (entry["state"], entry["counts"]) == ("not_finished", {"total": 1})
    docora.connection.execute("DROP FUNCTION refuse CASCADE")
    assert docora.run(*commands[0]).code == 0
    latest, *others = history(docora)
    assert (latest["state"], latest["counts"]) == ("done", {"total": 1, "already_queued": 1})
    assert len(others) == 2


@pytest.mark.slow
def test_the_login_is_named_beside_the_user_and_not_the_environment(docora: Docora) -> None:
    link, login = docora.add_link(), pwd.getpwuid(1).pw_name
    line = f"echo 1 >/proc/self/loginuid || exit 99; docora-ops retry {' '.join(link.ids)}"
    done = docora.run_in_shell(line, env={"SUDO_USER": "alice"}).ended(0)
    if done.code == 99:
        pytest.skip("needs the right to say who has logged in")
    assert history(docora)[0]["who"] == f"{login} as {pwd.getpwuid(os.getuid()).pw_name}@{HOST}"


def test_a_terminal_shows_a_change_on_one_line_and_dates_older_ones(docora: Docora) -> None:
    app_id = docora.add_app("Acme Search")
    link = docora.link(app_id, docora.add_repository("octo/web"))
    assert docora.run("retry", *link.ids, "--reason", "the app is back").code == 0
    entry: dict[Any, Any] = {"who": "kim@ops1", "command": "retry-all-failed", "event": "done"}
    entry |= {"selection": json.dumps({"error": ["x" * 90]}), "counts": '{"total": 9, "queued": 9}'}
    docora.redis.xadd(STREAMS[1], entry, id="1764548820000-0")
    ended = entry | {"run": "six", "counts": '{"total": 6, "queued": 4, "replaced_stale": 2}'}
    docora.redis.xadd(STREAMS[1], ended, id="1764548880000-0")
    results = '{"synced": 4, "failed": 2, "gone": 0, "unfinished": 0}'
    awaited: dict[Any, Any] = {"event": "awaited", "operation_id": "six", "counts": results}
    docora.redis.xadd(STREAMS[1], awaited, id="1764548890000-0")
    narrow, wide = (
        plain_data(at_terminals(docora, ["history"], columns=columns, env=NO_DATABASE).data)
        for columns in (80, 200)
    )
    newest, with_results, oldest, *_ = narrow.splitlines()
    assert re.fullmatch(
        rf"\d\d:\d\d \S+@{re.escape(HOST)} retry 'Acme Search' octo/web → 1 queued; .*", newest
    )
    command = r"retry-all-failed --error x+… → 9 queued"
    assert re.fullmatch(rf"2025-12-01 00:27 kim@ops1 {command}", oldest)
    assert re.search("--error … → 2 failed again, 4 in sync$", with_results)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "; the app is back\n" in wide


def test_results_of_a_wait_that_ended_before_its_operation_are_told(docora: Docora) -> None:
    entry: dict[Any, Any] = {"who": "kim@ops1", "command": "retry-all-failed", "run": "r"}
    entry |= {"selection": "{}", "operation_id": "bulk_1"}
    counts = {"synced": 2, "failed": 1, "gone": 0, "unfinished": 3}
    for event in ("started", "awaited", "ended"):
        docora.redis.xadd(STREAMS[0], {**entry, "event": event, "counts": json.dumps(counts)})
    docora.redis.xadd(STREAMS[0], {**entry, "command": "cancel", "run": "", "event": "done"})
    cancel, bulk = history(docora)
    assert (cancel["results"], bulk["results"]) == (None, counts)


def test_a_length_is_shown_exactly_as_a_person_would_type_it(docora: Docora) -> None:
    app = docora.add_app("Acme Search")
    times: list[tuple[str, ...]] = [(), ("--for", "2h"), ("--for", "12h30m"), ("--for", "100s")]
    for options in (*times, ("--for", "ever")):
        assert docora.run("hold", app, *options, "--yes").code == 0
    assert docora.run("pause", "--for", "5400", "--yes").code == 0
    shown = docora.run("history", env=NO_DATABASE).stdout
    said = re.findall(r"--for \S+", shown)
    assert said == [f"--for {text}" for text in ("90m", "ever", "100s", "750m", "2h", "24h")]


def test_passes_of_schedule_that_changed_nothing_are_left_out(docora: Docora) -> None:
    entry: dict[Any, Any] = {"who": "kim@ops1", "command": "schedule", "selection": "{}"}
    entry |= {"event": "ended", "run": "idle"}
    for run, counts, stopped_by in (
        ("idle", {"total": 2, "already_queued": 1, "already_running": 1}, ""),
        ("some", {"total": 2, "already_queued": 1, "queued": 1}, ""),
        ("bad", {"total": 1, "not_queued": 1}, ""),
        ("cut", {"total": 2, "already_queued": 1}, "interrupted"),
    ):
        entry |= {"run": run, "reason": run, "counts": json.dumps(counts), "stopped_by": stopped_by}
        docora.redis.xadd(STREAMS[1], entry)
    assert [each["reason"] for each in history(docora)] == ["cut", "bad", "some"]


def test_a_terminal_folds_passes_of_schedule_that_follow_each_other(docora: Docora) -> None:
    pass_: dict[Any, Any] = {"command": "schedule", "selection": "{}", "event": "ended"}
    counts = '{"total": 2, "queued": 1, "already_queued": 1}'
    start = 1_764_548_820_000  # 00:27 on 2025-12-01
    passes = [(f"kim@ops{number % 2}", start + number * 60_000) for number in range(8)]
    passes += [("kim@ops2", start + 500_000), ("kim@ops2", start + 515_000)]  # within one minute
    for number, (host, ended) in enumerate(passes):
        entry = pass_ | {"who": host, "run": str(number), "counts": counts}
        docora.redis.xadd(STREAMS[1], {**entry, "event": "started"}, id=f"{ended - 10_000}-0")
        docora.redis.xadd(STREAMS[1], entry, id=f"{ended}-0")
    change: dict[Any, Any] = {"command": "resume", "selection": "{}", "event": "done"}
    docora.redis.xadd(STREAMS[0], {**change, "who": "kim@ops1"}, id=f"{start + 250_000}-0")
    command = ["history", "--limit", "4"]
    lines = plain_data(at_terminals(docora, command, columns=90, env=NO_DATABASE).data).splitlines()
    assert [" ".join(line.split()) for line in lines[:4]] == [
        "2025-12-01 00:35 kim@ops2 schedule → 2 passes, 2 queued, 2 already queued",
        "2025-12-01 00:31 to 00:34 kim@ops1 schedule → 2 passes, 2 queued, 2 already queued",
        "2025-12-01 00:32 kim@ops0 schedule → 1 queued, 1 already queued",
        "2025-12-01 00:31 kim@ops1 resume",
    ]
    assert ": 6 changes, page 1 of 2." in lines[4]
    assert len(history(docora)) == 11
    assert len(docora.run("history", env=NO_DATABASE).stdout.splitlines()) == 12
