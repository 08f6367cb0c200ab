"""Bad values for arguments and options of each kind: a sentence, and nothing changed."""

import os
import re
from collections.abc import Iterator, Sequence

import pytest

from tests.support.docora import Docora
from tests.support.hostile_texts import EVIL
from tests.support.terminal import assert_inert, on_terminal

STRAY = os.fsdecode(b"x\xff\xfe")
LONG = "x" * 100_000
UNKNOWN = 3


def wrong_commands() -> Iterator[tuple[Sequence[str], int]]:
    for name in ("", " ", "nonsense", STRAY, EVIL, LONG, "--nonsense", "--version=1", "-x"):
        yield [name], 2
    for command in ("retry-all-failed", "links", "resync", "pause", "doctor"):
        for surplus in ("--nonsense", "-z", f"--{STRAY}"):
            yield [command, surplus], 2
    for text in ("", " ", STRAY):
        yield ["retry", text, "octo/api"], 2
        yield ["retry", "nobody", text], 2
        for option in ("--app", "--exclude-app", "--repo", "--error", "--exclude-error"):
            yield ["retry-all-failed", f"{option}={text}"], 2
        for option in ("--last-scan-before", "--last-scan-after"):
            yield ["retry-all-failed", f"{option}={text}"], 2
    for text in (EVIL, LONG):
        yield ["retry", text, "octo/api"], UNKNOWN
        yield ["retry-all-failed", "--app", text], UNKNOWN
        yield ["links", "--status", text], 2
        yield ["pause", "--for", text], 2
        yield ["failed", "--last-scan-after", text], 2
        yield ["retry-all-failed", "--in-flight", "1", "--max-failures", text], 2
    for number in ("", "nan", "1.5", LONG, "--json", "0"):
        yield ["retry-all-failed", "--limit", number], 2
    for reason in (" ", STRAY):
        yield ["retry-all-failed", f"--reason={reason}"], 2
    yield ["queue", "--limit", "10001"], 2
    yield ["retry-all-failed", "--yes=yes"], 2
    yield ["show", "a", "b", "c"], 2


def problems_of(
    docora: Docora, wrong: Sequence[tuple[Sequence[str], int]], **env: str | None
) -> Iterator[str]:
    for number, (arguments, code) in enumerate(wrong):
        as_json = number % 2 == 1 and len(arguments) > 1
        given = [arguments[0], "--json", *arguments[1:]] if as_json else arguments
        result = docora.run(*given, env=env)
        assert_inert(result.stderr)
        is_sentence = re.fullmatch(r"Error: \S[^\n]*\nHint: \S[^\n]*\n", result.stderr)
        is_right = result.json.keys() >= {"error", "code"} if as_json else not result.stdout
        if not (is_sentence and is_right and result.code == code and result.stdout.isascii()):
            yield f"{[each[:40] for each in given]} ended with {str(result)[:300]}"


@pytest.mark.slow
def test_each_wrong_value_gets_a_sentence_and_changes_nothing(docora: Docora) -> None:
    docora.add_link()
    before = docora.dump()
    problems = list(problems_of(docora, list(wrong_commands())))
    assert not problems, "\n".join(problems)
    assert docora.dump() == before


@pytest.mark.slow
def test_what_people_type_leads_on_to_what_the_command_takes(docora: Docora) -> None:
    link = docora.add_link()
    for words, said in (
        (["failed", "Acme Search"], "Hint: quote names that contain spaces"),
        (["retry", "Acme Search"], "docora-ops retry-all-failed --app APP"),
        (["links", "--limit", "ten"], "--limit': 'ten' is not a valid integer"),
        (["links", "--limit", "redis://:pass word@a"], "--limit': a URL is not a valid integer"),
        (["retry", "Acme", "octo/api", "--reason"], "docora-ops retry --help"),
        (["--version=1"], "docora-ops --help"),
    ):
        docora.run(*words).ended(2, says=said)
    listed = docora.run("links", "--status", "FAIL", "--status", "pending", "--json")
    assert [row["app_id"] for row in listed.data] == [link.app_id]
    swapped = docora.run("retry", link.repository_id, link.app_id)
    assert (swapped.code, "it is a repository: the app comes first" in swapped.stderr) == (3, True)


@pytest.mark.parametrize("words", [["status"], ["verify"], ["operations", "bulk_1", "--follow"]])
def test_without_settings_a_command_says_what_to_do(docora: Docora, words: list[str]) -> None:
    env = {"DATABASE_URL": None, "REDIS_URL": "nonsense"}
    code, shown = on_terminal(docora, words, env=env)
    assert code == 2, shown
    assert shown.replace("\x1b[1;31m", "").startswith("Error: ")
    if words != ["status"]:
        return
    unset = docora.run("failed", env={"DATABASE_URL": None})
    ways = ("--env-file", "postgres://HOST/DATABASE", "docora-ops demo")
    assert all(each in unset.stderr for each in ways)
