"""Since when links fail, as far as that is known, and links chosen by their last good scan."""

import json
import re
import shlex
from datetime import UTC, datetime, timedelta

import pytest

from docora_ops.cli.options import _moment_or_age
from docora_ops.text import moment_of
from tests.support.docora import Docora, Result
from tests.support.read_only import frozen, read_only
from tests.support.rows import TestLink
from tests.support.terminal import at_terminals, plain_data

MOMENT = "2026-01-05T08:00:00.123456+00:00"
AGES = {"never": None, "day": 26 * 60, "hours": 190, "hour": 70, "now": 5}  # in minutes


@pytest.fixture
def links(docora: Docora) -> dict[str, TestLink]:
    """Failed links of one app, by how long ago their last good scan was, and one in sync."""
    app = docora.add_app("Acme Search")
    found = {
        name: docora.link(
            app,
            docora.add_repository(f"octo/{name}"),
            last_error=f"HTTP 50{number} on created a",
            scanned=None if minutes is None else timedelta(minutes=minutes, seconds=10),
        )
        for number, (name, minutes) in enumerate(AGES.items())
    }
    exact = docora.link(app, docora.add_repository("octo/exact"))
    docora.set_link(exact, last_scanned_at=MOMENT)
    docora.link(app, docora.add_repository("octo/synced"), "synced", scanned=timedelta(minutes=1))
    return found


def names(result: Result) -> set[str]:
    assert result.code == 0, result
    return {row["repository_name"].removeprefix("octo/") for row in result.data}


@pytest.mark.slow
def test_links_are_chosen_by_their_last_good_scan_exactly(
    docora: Docora, links: dict[str, TestLink]
) -> None:
    every = {*links, "exact"}
    for moment, before in (
        ("2h", {"never", "day", "hours", "exact"}),
        ("1d", {"never", "day", "exact"}),
        ("1h10m", {"never", "day", "hours", "hour", "exact"}),
        ("90s", every),
        (MOMENT, {"never"}),  # at the moment is after it, to the microsecond
        ("2026-01-05 08:00:00.123457Z", {"never", "exact"}),
        ("2026-01-05T09:59:00+02:00", {"never"}),
        ("2026-01-05T10:01:00+02:00", {"never", "exact"}),
        ("2026-01-05T08:00:01", {"never", "exact"}),  # UTC, whatever the time zone of the host
        ("2026-01-06", {"never", "exact"}),
    ):
        env = {"TZ": "America/New_York"}
        for option, expected in (("before", before), ("after", every - before)):
            chosen = (f"--last-scan-{option}", moment)
            assert names(docora.run("failed", *chosen, "--json", env=env)) == expected, chosen
    both = ("--last-scan-after", "2d", "--last-scan-before", "1h")
    assert names(docora.run("links", *both, "--json")) == {"day", "hours", "hour"}
    [group] = docora.run("failed", *both, "--group-by", "app", "--json").data
    assert group["links"] == 3
    assert docora.run("retry-all-failed", *both, "--dry-run", "--json").data["total"] == 3
    quiet = docora.add_app("Quiet Harbor")
    [app] = docora.run("apps", *both, "--json").data
    assert (app["links"], app["failed"], app["synced"]) == (3, 3, 0)
    assert app["last_scanned_at"] == app["good_until_at"]
    assert quiet in {app["app_id"] for app in docora.run("apps", "--json").data}
    assert "no matching apps." in docora.run("apps", "--last-scan-after", "1s").stderr

    assert docora.run("retry-all-failed", *both, "--yes").code == 0
    assert set(docora.waiting()) == {links[name].job_id for name in ("day", "hours", "hour")}
    # The entry has moments: the same choice, whenever it is repeated.
    recorded = json.loads(docora.audit_entries()[0]["selection"])
    for name, hours in (("last_scan_after", 48), ("last_scan_before", 1)):
        ago = docora.one("SELECT now() - %s::timestamptz", recorded[name])
        assert abs(ago - timedelta(hours=hours)) < timedelta(minutes=5)
    assert f"--last-scan-before {recorded['last_scan_before']}" in docora.run("history").stdout
    again = ("--last-scan-before", recorded["last_scan_before"])
    assert names(docora.run("links", "--status=pending_snapshot", *again, "--json")) == {
        *("day", "hours", "hour")
    }


def test_links_are_resynced_by_their_last_scan(docora: Docora, links: dict[str, TestLink]) -> None:
    app = links["day"].app_id
    all_of_it = ("resync", app, "--all", "--last-scan-after=2d", "--last-scan-before=1h")
    planned = docora.run(*all_of_it, "--dry-run", "--json").data
    assert (planned["total"], docora.waiting()) == (3, [])
    assert docora.run(*all_of_it, "--yes").code == 0
    assert set(docora.waiting()) == {links[name].job_id for name in ("day", "hours", "hour")}
    [entry] = [json.loads(each["selection"]) for each in docora.audit_entries()][:1]
    assert re.search(
        rf"resync 'Acme Search' --all --last-scan-before {entry['last_scan_before']} "
        rf"--last-scan-after {entry['last_scan_after']}\b",
        docora.run("history").stdout,
    )
    refused = docora.run("resync", *links["now"].ids, "--last-scan-after", "2h", "--yes")
    assert (refused.code, len(docora.waiting())) == (2, 3)
    assert "--last-scan-after needs --all" in refused.stderr


def test_a_value_that_is_neither_moment_nor_age_is_refused(docora: Docora) -> None:
    for value in ("2", "30m2h", "25:00", "tomorrow", "-1h", "2026-13-01", "0001-01-01T00:00+14:00"):
        refused = docora.run("links", f"--last-scan-before={value}").ended(2)
        assert f"{value!r} is neither a moment" in refused.stderr
    docora.run("links", "--last-scan-after", "999999999d", "--json").ended(2, "usage")


def test_a_time_of_day_means_its_last_occurrence() -> None:
    now = datetime(2026, 11, 28, 8, 30, tzinfo=UTC)
    for typed, at in (
        ("8:00:30", datetime(2026, 11, 28, 8, 0, 30, tzinfo=UTC)),
        ("8:00", datetime(2026, 11, 28, 8, tzinfo=UTC)),
        ("08:30:00Z", now),
        ("12:00", datetime(2026, 11, 27, 12, tzinfo=UTC)),
        ("today", datetime(2026, 11, 28, tzinfo=UTC)),
        ("yesterday", datetime(2026, 11, 27, tzinfo=UTC)),
        ("2h", datetime(2026, 11, 28, 6, 30, tzinfo=UTC)),
    ):
        assert moment_of(_moment_or_age(typed), now) == at, typed


@pytest.mark.slow
def test_a_time_without_scans_is_refused(docora: Docora, links: dict[str, TestLink]) -> None:
    for options, why in (
        (("after=1h", "before=2h"), "--last-scan-after 20"),
        (("after=today", "before=2d"), "T00:00:00.000Z is not before --last-scan-before 20"),
        (("after=2026-01-05", "before=2026-01-05"), "before --last-scan-before 2026-01-05T00"),
        (("after=9000-01-01",), "after 9000-01-01T00:00:00.000Z is in the future: it is 20"),
    ):
        chosen = [f"--last-scan-{option}" for option in options]
        for command in ("apps", "resync 'Acme Search' --all --yes"):
            docora.run(*shlex.split(command), *chosen).ended(2, says=why)
    assert docora.waiting() == []
    assert len(names(docora.run("failed", "--last-scan-before=9000-01-01", "--json"))) == 6


@pytest.mark.slow
def test_lists_tell_until_when_links_were_good(docora: Docora, links: dict[str, TestLink]) -> None:
    env = read_only(docora)
    with frozen(docora):
        failed = docora.run("failed", env=env).stdout.splitlines()
        groups = docora.run("failed", "--group-by", "error", env=env).stdout.splitlines()
        as_json = docora.run("failed", "--group-by", "error", "--json", env=env).data
        apps = docora.run("apps", env=env).stdout.splitlines()
        [app] = docora.run("apps", "--json", env=env).data
        status = docora.run("status", env=env).stdout
        page = docora.run("show", app["app_id"], env=env).stdout
        shown = docora.run("show", *links["hours"].ids, env=env).stdout
        never = docora.run("show", *links["never"].ids, env=env).stdout
        table = at_terminals(docora, ["failed", "--group-by", "error"], columns=100, env=env)
    docora.connection.execute("UPDATE repositories SET name = name || '-of-the-whole-company'")
    docora.set_link(links["hour"], last_error="127.0.0.1:9: Connection refused on created LICENSE")
    narrow = at_terminals(docora, ["failed"], columns=80, env=env)
    heading = failed[0].split("\t")
    bounds = {
        row[heading.index("Repository")]: row[heading.index("Good until")]
        for row in (line.split("\t") for line in failed[1:])
    }
    assert bounds["octo/never"] == "never good"
    for name, age in (("hours", "3h10m"), ("hour", "1h10m"), ("now", "5m")):
        assert re.fullmatch(rf"\d\d:\d\dZ, {age}.* ago", bounds[f"octo/{name}"]), bounds
    assert re.fullmatch(r"20\d\d-\d\d-\d\d, 1d2h ago", bounds["octo/day"]), bounds
    at = docora.row(links["hours"])["last_scanned_at"]
    assert bounds["octo/hours"] == f"{at:%H:%M}Z, 3h10m ago"

    # Of a group, an app and all: from the earliest to the latest of the failed links.
    assert groups[0] == "Links\tFiles\tApps\tApp names\tGood until\tError"
    assert any(re.fullmatch(r"1\t1\t1\t.*\t..:..Z, 3h10m ago\tHTTP 502", line) for line in groups)
    assert "3h10m ago" in plain_data(table.data)
    assert re.search(r"octo/h.*….* \d\d:\d\dZ, 3h10m ago +none\n", plain_data(narrow.data))
    assert re.search(r" 127\.0\.0\.1:9: Conn\w*… ", plain_data(narrow.data)), narrow.data
    of_group = next(row for row in as_json if "HTTP 502" in row["error_message"])
    assert 190 * 60 <= of_group["good_until_seconds"] < 191 * 60
    last = docora.row(links["now"])["last_scanned_at"].isoformat(timespec="milliseconds")
    assert app["good_until_at"] == last.replace("+00:00", "Z") < app["last_scanned_at"]
    until = f"2026-01-05 to {docora.row(links['now'])['last_scanned_at']:%Y-%m-%d}"
    assert f"\t{until}\t" in apps[1]
    assert f"\nFailed\t6 in 1 app, good until {until}: " in status
    assert f"\nFailed\t6 links, good until {until}\n" in page
    exact = (datetime.now(UTC) - datetime.fromisoformat(MOMENT)).total_seconds()
    assert abs(app["oldest_scan_seconds"] - exact) < 3600
    assert "in the last 15m at least 2 synced\n" in status

    assert f"\nGood until\t{at:%H:%M}Z, 3h10m ago\n" in shown
    assert "\nGood until\tnever good\n" in never
    assert "Failed at" not in shown
    docora.set_link(links["hours"], status="synced")
    assert "Good until" not in docora.run("show", *links["hours"].ids).stdout
