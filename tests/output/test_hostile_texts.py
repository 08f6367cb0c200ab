"""Whatever is in the stores does nothing to a terminal, and is whole in a pipe and in JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from rich.cells import cell_len

from docora_ops.text import inert
from tests.support.docora import Docora, Result
from tests.support.hostile_texts import EVIL, TRICKS
from tests.support.hostile_world import (
    LONG,
    MEGABYTE,
    ODD,
    OPERATION,
    WHOLE,
    add_colliding_links,
    add_long_link,
    fill_database,
    fill_redis,
    link_of,
)
from tests.support.terminal import assert_inert, at_terminals, plain_data, plain_talk

WIDTHS = (40, 80, 200)
ODD_IDS = ("a b", "\x1b[2J", "\u202ex")
AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}


@pytest.fixture
def world(docora: Docora) -> Docora:
    """A Docora whose every text comes from the corpus."""
    fill_database(docora)
    fill_redis(docora)
    return docora


@dataclass(frozen=True)
class Reading:
    """A command that changes nothing, and how much of the corpus it has to show."""

    arguments: tuple[str, ...]
    shows: Sequence[str] = ()
    code: int = 0

    def __str__(self) -> str:
        return " ".join(self.arguments)[:60]


EACH = tuple(TRICKS)
WHOLES = (EVIL,)
FOLDED = ("漢字", "Cafe\u0301")
SENTENCE = ("PWNED",)
READING = (
    Reading(("failed", "--limit", "100"), EACH),
    Reading(("failed", "--group-by", "app"), EACH),
    Reading(("failed", "--group-by", "error"), FOLDED),
    Reading(("links", "--limit", "100"), EACH),
    Reading(("links", "--group-by", "repository", "--limit", "100"), EACH),
    Reading(("links", "--group-by", "status"), (EVIL[:50],)),
    Reading(("apps", "--limit", "100"), EACH),
    Reading(("links", "--error", EVIL, "--exclude-error", EVIL)),
    Reading(("links", "--repo", EVIL), SENTENCE, code=3),
    Reading(("show", *WHOLE.ids), WHOLES),
    *(
        Reading(("show", link_of(each).app_id, link_of(each).repository_id), [trick])
        for each, trick in enumerate(TRICKS)
        if each in {3, 17}
    ),
    Reading(("show", *ODD.ids), (EVIL[:50],)),
    Reading(("queue", "--limit", "200"), EACH),
    Reading(("doctor",), EACH[:3], code=6),
    Reading(("operations",), EACH),
    Reading(("progress", OPERATION), EACH[:20]),
    Reading(("history", "--limit", "100"), EACH),
    Reading(("retry-all-failed", "--dry-run"), EACH, code=6),
    Reading(("schedule", "--dry-run"), EACH, code=6),
    Reading(("repair", "--dry-run"), EACH),
    Reading(("resync", WHOLE.app_id, "--all", "--dry-run")),
    Reading(("retry", *WHOLE.ids, "--dry-run")),
    Reading(("show", "\x1b]0;PWNE", EVIL), ("no repository",), code=3),
    Reading(("show", WHOLE.app_id, EVIL), SENTENCE, code=3),
    Reading(("cancel", EVIL), SENTENCE, code=3),
    Reading(("retry", EVIL, EVIL, f"--{EVIL}"), SENTENCE, code=2),
    Reading(("retry", WHOLE.app_id, "x", f"--\udcff{EVIL}"), SENTENCE, code=2),
)
"""The last ones end with an error, and a nearest name."""


def test_at_a_narrow_terminal_nothing_acts_or_overflows(world: Docora) -> None:
    problems: list[str] = []
    for reading in READING:
        shown = at_terminals(world, reading.arguments, columns=40, env=AT_ONCE)
        assert shown.code == reading.code, (reading, shown)
        data, talk = plain_data(shown.data), plain_talk(shown.talk)
        widest = max(map(cell_len, data.splitlines()), default=0)
        if widest > 40:
            problems.append(f"{reading}: {widest} columns")
        if "─" not in data:  # in a table cells that are folded stand side by side
            found = "".join((data + talk).split())
            problems += [
                f"{reading}: {inert(value)!a} is missing"
                for value in reading.shows
                if "".join(inert(value).split()) not in found
            ]
    assert not problems, "\n".join(problems)


def test_in_a_pipe_all_is_inert_and_whole(world: Docora) -> None:
    problems: list[str] = []
    for reading in READING:
        result = world.run(*reading.arguments, env=AT_ONCE)
        assert result.code == reading.code, (reading, result)
        assert_inert((result.stdout + result.stderr).replace("\t", " "))
        assert "…" not in result.stdout + result.stderr, reading
        problems += [
            f"{reading}: {inert(value)!a} is missing"
            for value in reading.shows
            if inert(value) not in result.stdout + result.stderr
        ]
    assert not problems, "\n".join(problems)


def test_results_of_changes_are_inert_and_whole_in_a_pipe(world: Docora) -> None:
    for arguments, code in (
        (("repair", "--yes"), 0),
        (("retry-all-failed", "--yes"), 6),
        (("resync", *WHOLE.ids), 0),
        (("resync", link_of(3).app_id, "--all", "--yes"), 0),
        (("schedule",), 6),
    ):
        result = world.run(*arguments, env=AT_ONCE)
        assert result.code == code, result
        assert_inert((result.stdout + result.stderr).replace("\t", " "))
        assert "…" not in result.stdout + result.stderr
        if arguments[0] != "resync":
            missing = [trick for trick in TRICKS if inert(trick) not in result.stdout]
            assert not missing, arguments


def test_json_is_one_ascii_line_that_gives_back_what_is_stored(world: Docora) -> None:
    for reading in READING:
        result = world.run(*reading.arguments, "--json", env=AT_ONCE)
        assert result.code == reading.code, (reading, result)
        assert_document(result)
        texts = set(texts_of(result.json))
        if result.code in {0, 6}:
            for value in reading.shows:
                assert any(value in text for text in texts), (reading, value)
    rows = {row["app_id"]: row for row in world.run("failed", "--json", "--limit", "100").data}
    for number, trick in enumerate(TRICKS):
        row = rows[link_of(number).app_id]
        for field in ("app_name", "error_message"):
            assert row[field] == trick
        assert row["repository_name"] == f"{trick}/{trick}"


def assert_document(result: Result) -> None:
    assert result.stdout.isascii()
    assert result.stdout.count("\n") == 1
    assert result.stdout.endswith("}\n")
    assert_inert(result.stderr)
    # No half of a surrogate pair, which other parsers refuse.
    json.dumps(result.json, ensure_ascii=False).encode()


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts_of(list(value.items()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_of(each)


def test_a_megabyte_of_an_error_is_cut_in_a_list_and_at_a_terminal_and_else_whole(
    world: Docora,
) -> None:
    add_long_link(world)
    ids = LONG.ids
    for columns in WIDTHS:
        shown = at_terminals(world, ["show", *ids], columns=columns)
        assert "…" in plain_data(shown.data)
        assert len(shown.data) < 20_000
    listed = world.run("failed", "--app", LONG.app_id)
    assert inert(MEGABYTE[:1900]) in listed.stdout
    assert "…" in listed.stdout
    assert len(listed.stdout) < 20_000
    assert world.run("show", *ids, "--json").data["error_message"] == MEGABYTE
    retried = world.run("retry", *ids)
    assert f"Last error\t{inert(MEGABYTE)}\n" in retried.stdout


# Commands that change something


def test_questions_and_results_of_changes_are_inert_at_any_width(world: Docora) -> None:
    add_colliding_links(world)
    for columns, number, odd in zip(WIDTHS, (0, 3, 17), ODD_IDS, strict=True):
        link = link_of(number)
        ids = link.ids
        name = inert(list(TRICKS)[number])
        # Waiting takes its time, and shows nothing else at another width.
        wait, end = (("--wait", "--timeout", "1"), 8) if columns == 40 else ((), 0)
        changes: tuple[tuple[tuple[str, ...], str, int], ...] = (
            (("retry", *ids, *wait), "", end),
            (("resync", *ids), "y\n", 0),
            (("resync", link.app_id, "--all"), "n\n", 130),
            (("resync", link.app_id, "--all", *wait), "y\n", end),
            (("retry-all-failed", "--app", link.app_id), "n\n", 0),
            (("repair", *ids), "y\n", 0),
            (("retry", "--", odd, odd), "", 6),
        )
        for arguments, answer, code in changes:
            shown = at_terminals(world, arguments, columns=columns, answer=answer, env=AT_ONCE)
            assert shown.code == code, (arguments, shown)
            data, talk = plain_data(shown.data), plain_talk(shown.talk)
            assert max(map(cell_len, data.splitlines()), default=0) <= columns, arguments
            if answer and "[y/N]" in talk:
                assert "".join(name.split()) in "".join((data + talk).split()), arguments
    shown = at_terminals(world, ["repair"], columns=40, answer="y\n", env=AT_ONCE)
    assert shown.code == 0
    plain_data(shown.data)
    assert "[y/N]" in plain_talk(shown.talk)
    shown = at_terminals(world, ["retry-all-failed"], columns=40, answer="y\n")
    assert shown.code == 6
    plain_data(shown.data)
    assert "[y/N]" in plain_talk(shown.talk)
