"""What a person meets before anything is done: help, usage errors, settings."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
import typer.main

from docora_ops import __version__
from docora_ops.cli.app import app
from tests.support.docora import Docora, Result

DRIVERS = {"psycopg", "psycopg_binary", "redis", "rq", "prometheus_client"}
PYDANTIC = {"pydantic", "pydantic_core", "pydantic_settings"}
NOT_FOR_HELP = {*DRIVERS, *PYDANTIC, "rich", "markdown_it"}
TRACE = {"PYTHONPROFILEIMPORTTIME": "1"}
STRAY = os.fsdecode(b"\xff\xfe")
SECRET = "s3cr3t"


def commands() -> dict[str, Any]:
    """Every command by name; the name of the whole is empty."""
    group: Any = typer.main.get_command(app)
    return {"": group, **group.commands}


def split_trace(result: Result) -> tuple[str, set[str]]:
    """What a command said on stderr, and the packages that it imported."""
    said, imported = [], set()
    for line in result.stderr.splitlines(keepends=True):
        if line.startswith("import time:"):
            imported.add(line.rpartition("|")[2].strip().split(".")[0])
        else:
            said.append(line)
    return "".join(said), imported


def run_all(
    docora: Docora, argument_lists: Iterable[Sequence[str]], **env: str | None
) -> Iterator[tuple[Sequence[str], Result]]:
    """Each command in a process of its own, some at a time."""
    waiting = list(argument_lists)
    for start in range(0, len(waiting), 6):
        some = waiting[start : start + 6]
        yield from zip(some, docora.run_together(*some, env=env), strict=True)


def test_the_version_is_that_of_the_package(docora: Docora) -> None:
    result = docora.run("--version", env=TRACE)
    said, imported = split_trace(result)
    assert (result.code, result.stdout, said) == (0, f"docora-ops {__version__}\n", "")
    assert not imported & NOT_FOR_HELP


def test_every_help_explains_each_option_and_shows_an_example_and_loads_no_driver(
    docora: Docora,
) -> None:
    lists = [*([*name.split(), "--help"] for name in commands()), ["retry", "-h"]]
    seen = []
    for arguments, result in run_all(docora, lists, COLUMNS="400", **TRACE):
        said, imported = split_trace(result)
        assert (result.code, said) == (0, ""), arguments
        assert not imported & NOT_FOR_HELP, arguments
        assert "Example: docora-ops " in result.stdout
        assert "<bool>" not in result.stdout
        assert "\x1b" not in result.stdout
        command = commands()[" ".join(arguments[:-1])]
        for parameter in command.params:
            assert parameter.help, parameter.name
            text = re.sub(r"\s+", " ", result.stdout)
            assert re.sub(r"\s+", " ", parameter.help) in text, parameter.name
            for option in parameter.opts:
                if option.startswith("-"):
                    assert re.search(f" {option}[, ]", result.stdout), option
                    seen.append(option)
    assert {"--front", "--reset-circuit", "--skip-open-circuits", "--env-file"} <= set(seen)


def test_the_trace_of_imports_does_see_a_driver(docora: Docora) -> None:
    """Without this the tests for what is not loaded could not fail."""
    _, imported = split_trace(docora.run("progress", "bulk_x", env=TRACE))
    assert imported & DRIVERS == {"redis", "rq"}
    assert imported & PYDANTIC == PYDANTIC


def test_help_and_usage_errors_load_neither_pydantic_nor_rich(docora: Docora) -> None:
    guilty = []
    for arguments, result in run_all(
        docora,
        [
            ["--help"],
            ["retry", "--help"],
            ["nonsense"],
            ["retry"],
            ["retry", "a", "b", "--nonsense"],
            ["links", "--status", "nonsense"],
            ["links", "--circuit", "nonsense"],
            ["failed", "--sort", "nonsense"],
            ["queue", "--limit", "0"],
        ],
        **TRACE,
    ):
        _, imported = split_trace(result)
        if imported & NOT_FOR_HELP:
            guilty.append(" ".join(arguments))
    assert not guilty


@pytest.mark.parametrize("line", ["", "re", "retry --", "retry --dry"])
def test_the_names_of_commands_and_options_are_completed_with_nothing_else_loaded(
    docora: Docora, line: str
) -> None:
    shell = {"_DOCORA_OPS_COMPLETE": "complete_bash", "COMP_LINE": f"docora-ops {line}"}
    result = docora.run(env={**shell, "COMP_WORD": line.rpartition(" ")[2], **TRACE})
    _, imported = split_trace(result)
    assert result.stdout.startswith("values\n"), result
    assert not imported & NOT_FOR_HELP


def test_the_help_lists_every_command(docora: Docora) -> None:
    result = docora.run("--help")
    for name, command in commands().items():
        sentence = command.help.splitlines()[0]
        assert re.search(rf"^\W*{name}\b", result.stdout, re.MULTILINE), name
        assert sentence in re.sub(r"\s+", " ", result.stdout), name
    assert set(commands()) >= {
        *("retry", "retry-all-failed", "resync", "schedule", "progress", "cancel", "demo")
    }


def test_no_command_at_all_shows_the_help_and_no_empty_error(docora: Docora) -> None:
    result = docora.run()
    assert "Usage: docora-ops" in result.stdout
    assert result.code in {0, 2}
    assert not re.search(r"^Error:\s*$", result.stderr, re.MULTILINE), result.stderr


def test_usage_errors_are_one_sentence_or_one_document_and_load_no_driver(docora: Docora) -> None:
    wrong = [
        ["nonsense"],
        ["retry"],
        ["retry", "one"],
        ["retry", "one", "two", "three"],
        ["retry", "one", "two", "--nonsense"],
        ["retry", "one", "two", "--front=yes"],
        ["retry-all-failed", "--limit"],
        ["retry-all-failed", "--limit", "many"],
        ["retry-all-failed", "surplus"],
        ["resync", "one"],
        ["resync", "one", "two", "--all"],
        ["retry", "one", "two", "--timeout", "9"],
        ["resync", "one", "--all", "--wait", "--dry-run"],
        ["retry-all-failed", "--wait", "--timeout", "0"],
        ["repair", "one", "two", "three"],
        ["repair", "--all"],
        ["schedule", "surplus"],
        ["schedule", "--yes"],
        ["failed", "surplus"],
        ["queue", "--limit", "0"],
        ["show", "one"],
        ["failed", "--group-by", "nonsense"],
        ["progress"],
        ["cancel", "one", "two"],
        ["--nonsense"],
    ]
    lists = [*([*arguments, "--json"] for arguments in wrong), *wrong[:3]]
    for arguments, result in run_all(docora, lists, **TRACE):
        said, imported = split_trace(result)
        assert result.code == 2, (arguments, result)
        assert not imported & DRIVERS, arguments
        assert re.match(r"Error: \S.*\nHint: \S.*\n\Z", said), said
        if "--json" in arguments:
            assert result.json.keys() == {"error", "code", "hint"}
            assert result.json["code"] == "usage"
            assert f"Error: {result.json['error']}\n" in said
            assert result.stdout.isascii()
        else:
            assert result.stdout == ""


def test_usual_slips_get_a_hint_of_their_own(docora: Docora) -> None:
    unquoted = docora.run("retry", "Acme", "Search", "octo/api")
    assert unquoted.code == 2
    assert "Hint: a name with blanks goes into quotes" in unquoted.stderr
    # No command is made up where none can be corrected.
    for arguments in (["failed", "Acme", "Search"], ["links", "--app", "Acme", "Search"]):
        result = docora.run(*arguments)
        assert result.code == 2
        assert "Hint: a name with blanks goes into quotes; see docora-ops --help" in result.stderr
