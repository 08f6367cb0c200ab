"""`docora-ops trend`: is it getting better?"""

import csv
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from docora_ops.actions.trend import direction
from docora_ops.jobs import JobEnd
from docora_ops.queue.outcomes import COUNTS_KEPT, ENTRIES_KEPT, STREAM
from tests.support.diagnoses import check, examine
from tests.support.docora import Docora, Result
from tests.support.outcomes import outcome, record, spread
from tests.support.read_only import frozen
from tests.support.terminal import at_terminals, plain_data

BLOCKS = {"LANG": "C.UTF-8", "TERM": "xterm-256color"}


@pytest.fixture
def now(docora: Docora) -> datetime:
    seconds, _ = docora.redis.time()
    return datetime.fromtimestamp(int(seconds), UTC)


def rows(result: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(result.stdout.splitlines(), delimiter="\t"))


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def totals(result: Result) -> dict[str, Any]:
    names = ("synced", "failed", "failed_again", "tried_again", "files")
    periods = result.data["periods"]
    return {name: sum(period[name] or 0 for period in periods) for name in names}


# How many failed in the last 25 minutes and in the hour before.
FIGURES = [
    (0, 0, "none"),
    (3, 41, "falling"),
    (0, 15, "falling"),
    (4, 0, "rising"),
    (41, 17, "rising"),
    # What chance explains.
    (2, 0, "steady"),
    (0, 6, "steady"),
    (22, 41, "steady"),
    (12, 41, "steady"),
    # What chance does not explain, and nobody would call a change.
    (42_000, 110_000, "steady"),
    (30_000, 110_000, "falling"),
    (70_000, 110_000, "rising"),
]


@pytest.mark.parametrize(("recent", "before", "word"), FIGURES)
def test_the_word_is_what_chance_does_not_explain(recent: int, before: int, word: str) -> None:
    assert direction(recent, 1500, before, 3600) == word


def test_each_hour_has_a_row_with_what_ended_in_it(docora: Docora, now: datetime) -> None:
    noon = hour_of(now) - timedelta(hours=3)
    record(
        docora,
        [
            *(outcome(noon + timedelta(minutes=m), JobEnd.FAILED, seconds=2.0) for m in range(41)),
            outcome(noon + timedelta(minutes=5), JobEnd.FAILED_AGAIN, seconds=30.25),
            outcome(noon + timedelta(minutes=6), JobEnd.TRIED_AGAIN, seconds=9.0),
            outcome(noon + timedelta(minutes=59), JobEnd.SYNCED, created=3, deleted=1, seconds=1.0),
            outcome(noon + timedelta(minutes=60), JobEnd.SYNCED, updated=2, seconds=0.5),
        ],
    )
    with frozen(docora):
        result = docora.run("trend")
        document = docora.run("trend", "--json")
    assert result.code == document.code == 0
    found = {row["Since"]: list(row.values())[1:] for row in rows(result)}
    assert list(found) == [f"{noon:%Y-%m-%dT%H:%MZ}", *list(found)[1:]], "where the record begins"
    assert len(found) == 4
    assert list(found.values())[:3] == [
        ["1", "41", "1", "4", "2.0", "30.2"],
        ["1", "0", "0", "2", "0.5", "0.5"],
        ["0", "0", "0", "0", "", ""],
    ]
    first = document.data["periods"][0]
    assert (first["tried_again"], first["longest_seconds"]) == (1, 30.25)
    at = f"{noon:%Y-%m-%dT%H:%MZ}"
    assert result.stderr == (
        f"No link has failed for 80 minutes: 42 in the hour from {at}. The record begins at {at}.\n"
    )
    for by, seconds in (("10m", 600), ("day", 86_400)):
        other = docora.run("trend", "--json", "--by", by, "--since", "30h")
        assert other.data["period_seconds"] == seconds
        assert totals(other) == totals(document)
        starts = [datetime.fromisoformat(it["started_at"]) for it in other.data["periods"]]
        assert all(start.timestamp() % seconds == 0 for start in starts)


def test_failures_fall_rise_and_end(docora: Docora, now: datetime) -> None:
    old = spread(now, [600], JobEnd.SYNCED)
    for minutes, word, words in (
        (
            [*range(35, 76), 1],
            "falling",
            r"Failures fall: \d+ in the hour from \S+Z, \d/h in the last 20 to 30m\.",
        ),
        (
            [*range(60, 62), *[5] * 30],
            "rising",
            r"Failures rise: \d/h in the hour before, \d+/h in the last 20 to 30m\.",
        ),
        ([5, 40, 60, 80], "steady", r"Failures neither fall nor rise clearly: .*"),
        ([200] * 9, "none", r"No link has failed for 80 minutes: 9 in the hour from .*"),
    ):
        docora.redis.flushdb()
        record(docora, [*old, *spread(now, minutes)])
        result = docora.run("trend", "--json")
        assert result.data["direction"] == word, (minutes, result)
        shown = docora.run("trend").stderr
        assert re.match(words, shown), shown
    # The comparison needs 90 minutes, whatever is shown.
    record(docora, [*old, *spread(now, range(35, 76))])
    short = docora.run("trend", "--since", "5m", "--by", "10m", "--json")
    assert (len(short.data["periods"]) <= 2, short.data["direction"]) == (True, "falling")


def test_where_too_little_is_recorded_it_says_so(docora: Docora, now: datetime) -> None:
    nothing = docora.run("trend")
    assert (nothing.code, len(nothing.stdout.splitlines())) == (0, 1)
    assert nothing.stderr.startswith("Nothing is recorded: no worker has kept a record for 8 days")
    unknown = docora.run("trend", "--json").data
    assert (unknown["direction"], unknown["periods"]) == (None, [])
    record(docora, spread(now, [30], JobEnd.SYNCED))
    quiet = docora.run("trend").stderr
    assert re.match(r"No link failed since the record began at \S+Z\.\n", quiet), quiet
    later = docora.run("trend", "--since", "5m", "--by", "10m").stderr
    assert re.match(r"No link failed since \d\S+Z\.\n", later), later
    docora.redis.flushdb()
    record(docora, spread(now, [4] * 3))  # the rate is that of the time that is recorded
    assert 12 <= docora.run("trend", "--json").data["failures_per_hour"] <= 18
    docora.redis.flushdb()
    record(docora, spread(now, [30] * 20))
    young = docora.run("trend", "--json")
    assert young.data["direction"] is None
    begin = datetime.fromisoformat(young.data["reaches_back_to"])
    assert timedelta(minutes=30) <= now - begin <= timedelta(minutes=42)
    assert "too little is recorded to tell a trend" in docora.run("trend").stderr
    long = docora.run("trend", "--since", "30d", "--by", "day", "--json").data
    assert long["reaches_back_to"] == young.data["reaches_back_to"]
    # Counts outlive the stream, in which a mass failure leaves no room.
    record(docora, spread(now, [500], seconds=1.0))
    record(docora, spread(now, [100], seconds=2.0))
    fill = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], ARGV[2] .. '-' .. i, 'o', '') end"
    docora.redis.eval(fill, 1, STREAM, ENTRIES_KEPT, int(now.timestamp() - 5000) * 1000)
    outlived = docora.run("trend", "--json").data
    assert sum(period["failed"] for period in outlived["periods"]) == 22
    assert outlived["seconds_reach_back_to"] is not None
    known = [it["median_seconds"] for it in outlived["periods"] if it["median_seconds"]]
    assert known == [2.0]
    assert "Seconds are known since " in docora.run("trend").stderr
    of_error = docora.run("trend", "--error", "*", "--json").data
    assert (of_error["reaches_back_to"], of_error["seconds_reach_back_to"]) == (
        outlived["seconds_reach_back_to"],
        None,
    )
    assert docora.redis.ttl(docora.redis.keys(f"{STREAM}:*")[0]) <= COUNTS_KEPT
    # The row of `status` names the start of the record, too.
    began = f"{datetime.fromisoformat(outlived['reaches_back_to']):%H:%MZ}"
    piped = docora.run("status").stdout
    assert re.search(rf"\nFailures\t.* 30m.* \(recorded since {began}\): ", piped), piped
    shown = at_terminals(docora, ["status"], columns=80, env=BLOCKS).data
    assert re.search(rf"Failures +\S+ \(recorded since {began}\)  ", plain_data(shown)), shown
    record(docora, spread(now, [1500], JobEnd.SYNCED))
    shown = at_terminals(docora, ["status"], columns=80, env=BLOCKS).data
    assert re.search(r"Failures +\S{8} \(24 h\)  ", plain_data(shown)), shown


def test_a_worker_that_may_record_nothing_is_named(docora: Docora, now: datetime) -> None:
    commands = (["trend"], ["status"])
    record(docora, spread(now, [100, 700], JobEnd.SYNCED))
    docora.add_worker("mute")
    warning = "Warning: snapshots of these workers are not counted: mute; see docora-ops doctor"
    for command in commands:
        assert "not counted" not in docora.run(*command).stderr, command
    docora.redis.hset("rq:worker:mute", "may_record", 0)
    for command in commands:
        assert warning in docora.run(*command).stderr, command
    workers = check(examine(docora), "workers")
    assert (workers["state"], "mute" in workers["finding"]) == ("warning", True), workers


@pytest.mark.slow
def test_one_app_and_one_error_can_be_chosen(docora: Docora, now: datetime) -> None:
    app, other = docora.add_app("Acme Search"), docora.add_app("Quiet Harbor")
    record(
        docora,
        [
            *spread(now, [200] * 3, app_id=app, error_message="HTTP 502 on created docs/a.md"),
            *spread(now, [100] * 2, app_id=app, error_message="fatal: no route to host"),
            *spread(now, [90] * 4, app_id=other, error_message="HTTP 502 on updated b"),
            *spread(now, [80], app_id=other, error_message="HTTP 502: 10.0.0.3 is gone"),
            *spread(now, [300], JobEnd.SYNCED, app_id=app, created=7),
        ],
    )
    for options, failed, synced in (
        ([], 10, 1),
        (["acme s"], 5, 1),
        (["Quiet Harbor"], 5, 0),
        (["--error", "http 502"], 8, 0),
        (["--error", "HTTP 502: * is gone"], 1, 0),
        (["--error", "HTTP 502 on created *"], 3, 0),
        (["--error", "HTTP*created"], 0, 0),
        (["Acme Search", "--error", "502"], 3, 0),
    ):
        result = docora.run("trend", "--json", *options)
        found = totals(result)
        assert (found["failed"], found["synced"]) == (failed, synced), options
        of_errors = "--error" in options
        assert {period["synced"] is None for period in result.data["periods"]} == {of_errors}
    for error, words in (
        ("no route", "has failed with such an error for"),
        ("x", "failed with such"),
    ):
        assert f"No link {words}" in docora.run("trend", "--error", error).stderr
    assert docora.run("trend", "nobody").code == 3
    assert docora.run("trend", "--by", "week").code == 2
    assert docora.run("trend", "--since", "2100-01-01").code == 2
    without = docora.run("trend", "--json", env={"DATABASE_URL": "postgres://127.0.0.1:1/x"})
    assert totals(without)["failed"] == 10


def test_many_asterisks_in_a_pattern_take_no_longer(docora: Docora, now: datetime) -> None:
    record(docora, spread(now, [1], error_message="a" * 190 + "b"))
    for pattern, failed in (("*a" * 30 + "*c", 0), ("*a" * 30 + "*b", 1), ("a*" * 192 + "b", 0)):
        assert totals(docora.run("trend", "--error", pattern, "--json"))["failed"] == failed


def test_beside_bullmq_only_failed_jobs_are_known(docora: Docora, now: datetime) -> None:
    record(docora, spread(now, [30] * 5))  # of another time
    for number, minutes in enumerate((*range(150, 346), 75, 74, 10)):
        job_id, milliseconds = f"app_a-repo_{number}", (now.timestamp() - minutes * 60) * 1000
        docora.redis.zadd("bull:snapshot-queue:failed", {job_id: milliseconds})
        docora.redis.hset(f"bull:snapshot-queue:{job_id}", "failedReason", "HTTP 502")
    env = {"DOCORA_OPS_BACKEND": "bullmq"}
    result = docora.run("trend", "--json", env=env)
    data = result.data
    assert (totals(result)["failed"], data["reaches_back_to"]) == (199, None)
    assert {period["synced"] for period in data["periods"]} == {None}
    assert all(period["failed"] for period in data["periods"])
    assert (data["is_recorded"], data["direction"]) == (False, None)
    # Docora keeps the last 200.
    docora.redis.zadd(
        "bull:snapshot-queue:failed", {"app_a-repo_200": (now.timestamp() - 9e4) * 1000}
    )
    full = docora.run("trend", "--since", "30h", env=env).stderr
    oldest = f"{now - timedelta(hours=25):%Y-%m-%dT%H:%MZ}"
    assert full.startswith(f"200 failed jobs known, none from before {oldest}. No trend"), full
    docora.redis.delete("bull:snapshot-queue:failed")
    nothing = docora.run("trend", env=env)
    assert "0 failed jobs known. No trend can be told" in nothing.stdout + nothing.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["rq", "bullmq"])
def test_a_time_long_before_the_record_takes_no_memory(docora: Docora, backend: str) -> None:
    line = "ulimit -v 1000000; docora-ops trend --json --by 10m --since 0001-01-01"
    result = docora.run_in_shell(line, env={"DOCORA_OPS_BACKEND": backend})
    assert (result.code, result.data["periods"]) == (0, []), result


def test_the_screen_has_bars_in_blocks_or_ascii(docora: Docora, now: datetime) -> None:
    record(docora, [*spread(now, [75] * 20), *spread(now, [180]), *spread(now, [1600])])
    for env, tallest, smallest in (
        (BLOCKS, "██████████", "█"),
        ({**BLOCKS, "TERM": "linux"}, "##########", "#"),
    ):
        shown = at_terminals(docora, ["trend"], columns=80, env={**env, "LINES": "24"})
        lines = [line.rstrip() for line in plain_data(shown.data).splitlines()]
        assert (max(map(len, lines)) <= 80, len(lines) < 24) == (True, True), lines
        assert re.fullmatch(r"and \d earlier rows?: add --since 24h", lines[-3])
        said = " ".join(lines[-2:])
        assert re.match(r"Failures fall: 20 in the hour from .* Counted since \S+Z\.", said)
        bars = [line.split(" ")[-1] for line in lines if line.endswith(("█", "#"))]
        assert sorted(bars, key=len) == [smallest, tallest], env
