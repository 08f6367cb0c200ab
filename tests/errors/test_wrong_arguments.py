"""Bad values for each argument and option that there is: a sentence, and nothing changed."""

import os
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args

import typer.main

from docora_ops.cli.app import app
from tests.support.docora import Docora, Result
from tests.support.hostile_texts import EVIL
from tests.support.terminal import assert_inert

STRAY = os.fsdecode(b"x\xff\xfe")
LONG = "x" * 100_000
NO_TEXT = ("", STRAY, " ", "\t\n")
NO_NUMBER = (
    *("", STRAY, "nan", " ", "many", "-1", "1.5", "inf", "-inf", "1e9", "0x10", "\uff11\uff12"),
    *("\u0663", "9" * 30, LONG, "\x1b[2J", "--json"),
)
TEXT = (EVIL, LONG)
THOROUGH = ("retry-all-failed",)
"""Tried with all of these, where the others get the first: it has options of every kind."""
WRONG = frozenset({2})
UNKNOWN = frozenset({2, 3})

T = TypeVar("T")
Case = tuple[list[str], frozenset[int]]


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def sound(command: Any) -> list[str]:
    """Arguments that are well formed and name nothing that there is."""
    given = ["nobody" for parameter in command.params if parameter.param_type_name == "argument"]
    if any("--app" in parameter.opts for parameter in command.params):
        given += ["--app", "nobody"]
    return given


def cases() -> Iterator[Case]:
    """Something wrong for each argument and option of each command."""
    for name, command in commands().items():
        base = [name, *sound(command)]
        surplus = (["--nonsense"], ["a", "b", "c"], ["--nonsense=1"], ["-z"], [f"--{STRAY}"])
        yield from (([*base, *each], WRONG) for each in some_of(surplus, name, 1))
        for parameter in command.params:
            yield from wrong_values(name, command, parameter)
    for name in ("", " ", "nonsense", STRAY, EVIL, LONG, "--nonsense", "--version=1", "-x"):
        yield [name], WRONG


def some_of(values: Sequence[T], name: str, amount: int) -> Sequence[T]:
    return values if name in THOROUGH else values[:amount]


def wrong_values(name: str, command: Any, parameter: Any) -> Iterator[Case]:
    base = [name, *sound(command)]
    kind = parameter.type_descriptor.annotation
    if is_repeatable := parameter.param_type_name == "option" and parameter.multiple:
        [kind] = get_args(kind)
    if parameter.param_type_name == "argument":
        place = 1 + [each.name for each in command.params].index(parameter.name)
        for value in (*some_of(NO_TEXT, name, 1), *some_of(TEXT, name, 1)):
            yield [*base[:place], value, *base[place + 1 :]], WRONG if value in NO_TEXT else UNKNOWN
        return
    option = parameter.opts[0]
    if parameter.is_flag:
        yield [*base, f"{option}=yes"], WRONG
        return
    if option in base:
        base = [name]
    yield [*base, option], WRONG
    if kind is int:
        yield from (([*base, option, value], WRONG) for value in some_of(NO_NUMBER, name, 2))
        ends = parameter.type_descriptor.parameter_info
        yield [*base, option, str(ends.min - 1)], WRONG
        yield [*base, option, str(ends.max + 1)], WRONG
        yield [*base, option, "7", option, "7"], WRONG
    elif issubclass(kind, Enum):
        yield from (([*base, option, value], WRONG) for value in (*NO_TEXT, *TEXT))
        first = next(iter(kind)).value
        twice = ["nonsense"] if is_repeatable else [option, first]
        yield [*base, option, first, *twice], WRONG
    elif kind is Path:  # see test_what_is_no_env_file_gets_a_sentence
        yield [*base, option, "a", option, "b"], WRONG
    else:
        yield from (([*base, f"{option}={value}"], WRONG) for value in some_of(NO_TEXT, name, 1))
        yield from (([*base, option, value], UNKNOWN) for value in some_of(TEXT, name, 1))
        if is_repeatable:
            yield [*base, option, "a", f"{option}={NO_TEXT[0]}"], WRONG
        else:
            yield [*base, option, "a", option, "b"], WRONG


def problem_of(result: Result, codes: frozenset[int], *, as_json: bool) -> str | None:
    """What is not as it should be."""
    if result.code not in codes:
        return f"ended with {result.code}"
    if not re.fullmatch(r"Error: \S[^\n]*\nHint: \S[^\n]*\n", result.stderr):
        return f"said {result.stderr[:300]!a}"
    assert_inert(result.stderr)
    if as_json:
        document = result.json
        if not result.stdout.isascii() or not document.keys() >= {"error", "code", "hint"}:
            return f"printed {result.stdout[:300]!a}"
        str(document).encode()
    elif result.stdout:
        return f"printed {result.stdout[:300]!a}"
    return None


def problems_of(docora: Docora, wrong: Sequence[Case], **env: str | None) -> Iterator[str]:
    for number, (arguments, codes) in enumerate(wrong):
        # In the middle, where it is not taken for the value of what comes last.
        as_json = number % 2 == 1 and len(arguments) > 1 and not arguments[0].startswith("-")
        given = [arguments[0], "--json", *arguments[1:]] if as_json else arguments
        if arguments[0] in {"worker", "demo"}:
            given, as_json = arguments, False
        result = docora.run(*given, env=env)
        if problem := problem_of(result, codes, as_json="--json" in given):
            yield f"{[each[:40] for each in given]} {problem}"


def test_each_wrong_value_gets_a_sentence_and_changes_nothing(docora: Docora) -> None:
    docora.add_link()
    before = docora.dump()
    wrong = list(cases())
    assert len(wrong) > 150
    problems = list(problems_of(docora, wrong))
    assert not problems, "\n".join(problems)
    assert docora.dump() == before


def test_a_value_that_is_no_choice_gets_the_choices(docora: Docora) -> None:
    for option, choices in (
        ("--group-by", "'app', 'repository', 'error', 'status'"),
        ("--sort", "'app', 'error', 'retries', 'last-scan'"),
        ("--status", "'pending_snapshot', 'scanning', 'synced', 'failed'"),
        ("--circuit", "'open'"),
    ):
        result = docora.run("links", option, "nonsense")
        assert result.code == 2
        message, _ = result.stderr.splitlines()
        assert message == (
            f"Error: Invalid value for '{option}': 'nonsense' is not one of {choices}."
        )


def test_what_is_no_env_file_gets_a_sentence(docora: Docora, tmp_path: Path) -> None:
    docora.add_link()
    before = docora.dump()
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    paths = ["", " ", STRAY, EVIL, "x" * 5000, "/nowhere/at/all", "/etc/passwd/x", "/proc/self/mem"]
    wrong: list[Case] = [
        (["--env-file", path, "retry-all-failed"], WRONG)
        for path in (*paths, str(tmp_path), str(binary), "/dev/null")
    ]
    wrong += [(["--env-file"], WRONG), (["--env-file", "a", "--env-file", "b", "queue"], WRONG)]
    wrong += [(["queue", "--env-file", ""], WRONG), (["queue", "--env-file", EVIL], WRONG)]
    for number, text in enumerate(
        (
            b"DATABASE_URL=postgres://u:p@h/d\0\n",
            b"DATABASE_URL='postgres://u:p@h/\n",
            b"DATABASE_URL\n=\n==\n",
            b"\0" * 100,
            f"REDIS_URL=redis://h\0\nDATABASE_URL={docora.database_url}\n".encode(),
            f"DOCORA_OPS_BACKEND=a\0\nDATABASE_URL={docora.database_url}\n".encode(),
            f"DOCORA_OPS_BACKEND={EVIL}\nDATABASE_URL={docora.database_url}\n".encode(),
        )
    ):
        file = tmp_path / f"{number}.env"
        file.write_bytes(text)
        wrong.append((["--env-file", str(file), "retry-all-failed"], WRONG))
    paths_of_clones = tmp_path / "clones.env"
    paths_of_clones.write_bytes(b"REPOS_BASE_PATH=/tmp/\0\n")
    problems = list(problems_of(docora, wrong, DATABASE_URL=None, REDIS_URL=None))
    problems += problems_of(
        docora,
        [(["--env-file", str(paths_of_clones), "worker", "--burst"], WRONG)],
        ENCRYPTION_KEY="00" * 32,
    )
    assert not problems, "\n".join(problems)
    assert docora.dump() == before
