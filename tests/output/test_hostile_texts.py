"""Whatever is in the stores does nothing to a terminal, and is whole in a pipe and in JSON."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from rich.cells import cell_len

from docora_ops.text import inert
from tests.support.docora import Docora, Result
from tests.support.hostile_texts import (
    EVIL,
    ODD,
    OPERATION,
    TRICKS,
    WHOLE,
    add_colliding_links,
    fill_database,
    fill_redis,
    link_of,
)
from tests.support.terminal import assert_inert, at_terminals, plain_data, plain_talk

AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}


@pytest.fixture
def world(docora: Docora) -> Docora:
    """A Docora whose every text comes from the corpus."""
    fill_database(docora)
    fill_redis(docora)
    return docora


class Reading(NamedTuple):
    """A command that changes nothing, and how much of the corpus it has to show."""

    arguments: tuple[str, ...]
    shows: Sequence[str] = ()
    code: int = 0


EACH = tuple(TRICKS)
SENTENCE = ("PWNED",)
READING = (
    Reading(("failed", "--limit", "100"), EACH),
    Reading(("failed", "--group-by", "error"), ("漢字", "Cafe\u0301")),
    Reading(("links", "--group-by", "repository", "--limit", "100"), EACH),
    Reading(("apps", "--limit", "100"), EACH),
    Reading(("links", "--repo", EVIL), SENTENCE, code=3),
    Reading(("show", *WHOLE.ids), (EVIL[:50],)),
    Reading(("show", *WHOLE.ids, "--all"), (EVIL,)),
    Reading(("show", *ODD.ids), (EVIL[:50],)),
    Reading(("queue", "--limit", "200"), EACH),
    Reading(("doctor",), EACH[:3], code=6),
    Reading(("operations",), EACH),
    Reading(("operations", OPERATION), EACH[:20]),
    Reading(("history", "--limit", "100"), EACH),
    Reading(("retry-all-failed", "--dry-run"), EACH, code=6),
    Reading(("repair", "--dry-run"), EACH),
    # An error, and a nearest name.
    Reading(("show", WHOLE.app_id, EVIL), SENTENCE, code=3),
    Reading(("retry", WHOLE.app_id, "x", f"--\udcff{EVIL}"), SENTENCE, code=2),
)


@pytest.mark.slow
def test_at_a_narrow_terminal_nothing_acts_or_overflows(world: Docora) -> None:
    problems: list[str] = []
    for reading in READING:
        shown = at_terminals(world, reading.arguments, columns=40, env=AT_ONCE)
        assert shown.code == reading.code, (reading, shown)
        data, talk = plain_data(shown.data), plain_talk(shown.talk)
        widest = max(map(cell_len, data.splitlines()), default=0)
        if widest > 40:
            problems.append(f"{reading}: {widest} columns")
        # In a table, cells that are folded stand side by side; a change is cut to one line.
        if "─" not in data and "history" not in reading.arguments:
            found = "".join((data + talk).split())
            problems += [
                f"{reading}: {inert(value)!a} is missing"
                for value in reading.shows
                if "".join(inert(value).split()) not in found
            ]
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_in_a_pipe_all_is_inert_and_whole(world: Docora) -> None:
    """And JSON is one ASCII line that gives back what is stored."""
    problems: list[str] = []
    for reading in READING:
        result = world.run(*reading.arguments, env=AT_ONCE)
        assert result.code == reading.code, (reading, result)
        assert_inert((result.stdout + result.stderr).replace("\t", " "))
        assert "…" not in result.stdout + result.stderr, reading
        document = world.run(*reading.arguments, "--json", env=AT_ONCE)
        assert document.code == reading.code, (reading, document)
        assert_document(document)
        texts = set(texts_of(document.json))
        for value in reading.shows:
            if inert(value) not in result.stdout + result.stderr:
                problems.append(f"{reading}: {inert(value)!a} is missing")
            if reading.code in {0, 6}:
                assert any(value in text for text in texts), (reading, value)
    assert not problems, "\n".join(problems)
    rows = {row["app_id"]: row for row in world.run("failed", "--json", "--limit", "100").data}
    for number, trick in enumerate(TRICKS):
        row = rows[link_of(number).app_id]
        assert row["app_name"] == row["error_message"] == trick
        assert row["repository_name"] == f"{trick}/{trick}"
    for command, code in (("repair", 0), ("retry-all-failed", 6), ("schedule", 6)):
        result = world.run(command, env=AT_ONCE)
        assert result.code == code, result
        assert_inert((result.stdout + result.stderr).replace("\t", " "))
        assert not [trick for trick in TRICKS if inert(trick) not in result.stdout], command


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


@pytest.mark.slow
def test_questions_and_results_of_changes_are_inert_at_a_narrow_terminal(world: Docora) -> None:
    add_colliding_links(world)
    link, odd = link_of(3), "\u202ex"
    for arguments, answer, code in (
        (("retry", *link.ids, "--wait", "--timeout", "1"), "", 8),
        (("resync", link.app_id, "--all", "--wait", "--timeout", "1"), "y\n", 8),
        (("retry-all-failed", "--app", link.app_id), "n\n", 0),
        (("repair", *link.ids), "y\n", 0),
        (("retry", "--", odd, odd), "", 6),
        (("repair",), "y\n", 0),
        (("retry-all-failed",), "y\n", 6),
    ):
        shown = at_terminals(world, arguments, columns=40, answer=answer, env=AT_ONCE)
        assert shown.code == code, (arguments, shown)
        data, talk = plain_data(shown.data), plain_talk(shown.talk)
        assert max(map(cell_len, data.splitlines()), default=0) <= 40, arguments
        assert "[y/N]" in talk or not answer or link.app_id in arguments, arguments
        if "[y/N]" in talk and link.app_id in arguments:
            name = inert(list(TRICKS)[3])
            assert "".join(name.split()) in "".join((data + talk).split()), arguments
