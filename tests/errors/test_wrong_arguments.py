"""Bad values for each argument and option that there is: a sentence, and nothing changed."""

import os
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer.main

from docora_ops.cli.app import app
from tests.support.docora import Docora, Result
from tests.support.hostile_texts import EVIL
from tests.support.terminal import assert_inert

STRAY = os.fsdecode(b"x\xff\xfe")
LONG = "x" * 100_000
NO_TEXT = ("", STRAY, " ", "\t\n")
NO_NUMBER = ("", STRAY, "nan", "many", "1.5", "-inf", "0x10", LONG, "\x1b[2J", "--json")
TEXT = (EVIL, LONG)
THOROUGH = ("retry-all-failed",)
"""Tried with all of these, where the others get the first: it has options of every kind."""
WRONG = frozenset({2})
UNKNOWN = frozenset({2, 3})

Case = tuple[list[str], frozenset[int]]


def cases() -> Iterator[Case]:
    """Something wrong for each argument and option of each command."""
    group: Any = typer.main.get_command(app)
    tried: set[tuple[str, str]] = set()
    for name, command in group.commands.items():
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        base = [name, *("nobody" for _ in arguments)]
        if name in {"completion", "demo"}:  # name nothing that could be unknown
            base = [name]
        elif not arguments and any("--app" in each.opts for each in command.params):
            base += ["--app", "nobody"]
        most = None if name in THOROUGH else 1
        for surplus in ("--nonsense", "--nonsense=1", "-z", f"--{STRAY}")[:most]:
            yield [*base, surplus], WRONG
        yield [*base, "a", "b", "c"], WRONG
        for place, _ in enumerate(arguments, 1):
            for value in (*NO_TEXT[:most], *TEXT[:most]):
                codes = WRONG if value in NO_TEXT else UNKNOWN
                yield [*base[:place], value, *base[place + 1 :]], codes
        for parameter in command.params:
            # What several commands share is tried once.
            shared = (parameter.opts[0], parameter.help)
            if parameter.param_type_name == "option" and (most is None or shared not in tried):
                tried.add(shared)
                for values, codes in wrong_values(parameter, most):
                    yield [*base, *values], codes
    for name in ("", " ", "nonsense", STRAY, EVIL, LONG, "--nonsense", "--version=1", "-x"):
        yield [name], WRONG


def wrong_values(parameter: Any, most: int | None) -> Iterator[Case]:
    option = parameter.opts[0]
    kind = parameter.type_descriptor.annotation
    [kind] = get_args(kind) if parameter.multiple else [kind]
    if parameter.is_flag:
        yield [f"{option}=yes"], WRONG
        return
    yield [option], WRONG
    if kind is int and parameter.min is not None:
        yield from (([option, value], WRONG) for value in NO_NUMBER[:most])
        yield [option, str(parameter.min - 1)], WRONG
        if parameter.max is not None:
            yield [option, str(parameter.max + 1)], WRONG
    elif issubclass(kind, Enum):
        yield from (([option, value], WRONG) for value in (*NO_TEXT[:most], *TEXT[:most]))
    elif kind is not Path:  # see test_what_is_no_env_file_gets_a_sentence
        yield from (([f"{option}={value}"], WRONG) for value in NO_TEXT[:most])
        yield from (([option, value], UNKNOWN) for value in TEXT[:most])


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
        as_json = number % 2 == 1 and len(arguments) > 1 and arguments[0] != "worker"
        given = [arguments[0], "--json", *arguments[1:]] if as_json else arguments
        result = docora.run(*given, env=env)
        if problem := problem_of(result, codes, as_json="--json" in given):
            yield f"{[each[:40] for each in given]} {problem}"


def test_each_wrong_value_gets_a_sentence_and_changes_nothing(docora: Docora) -> None:
    docora.add_link()
    before = docora.dump()
    wrong = list(cases())
    assert len(wrong) > 100
    problems = list(problems_of(docora, wrong))
    assert not problems, "\n".join(problems)
    assert docora.dump() == before


def test_a_value_that_is_no_choice_gets_the_choices(docora: Docora) -> None:
    for option, choices in (
        ("--group-by", "'app', 'repository', 'error', 'status'"),
        ("--status", "'pending_snapshot', 'scanning', 'synced', 'failed'"),
    ):
        result = docora.run("links", option, "nonsense")
        assert (result.code, choices in result.stderr) == (2, True), result


def test_what_is_no_env_file_gets_a_sentence(docora: Docora, tmp_path: Path) -> None:
    docora.add_link()
    before = docora.dump()
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    paths = ["", " ", STRAY, EVIL, "x" * 5000, "/nowhere/at/all", "/etc/passwd/x", "/proc/self/mem"]
    paths += [str(tmp_path), str(binary), "/dev/null"]
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
        paths.append(str(file))
    wrong: list[Case] = [(["retry-all-failed", "--env-file", path], WRONG) for path in paths]
    wrong.append((["queue", "--env-file"], WRONG))
    paths_of_clones = tmp_path / "clones.env"
    paths_of_clones.write_bytes(b"REPOS_BASE_PATH=/tmp/\0\n")
    problems = list(problems_of(docora, wrong, DATABASE_URL=None, REDIS_URL=None))
    problems += problems_of(
        docora,
        [(["worker", "--env-file", str(paths_of_clones), "--burst"], WRONG)],
        ENCRYPTION_KEY="00" * 32,
    )
    assert not problems, "\n".join(problems)
    assert docora.dump() == before
