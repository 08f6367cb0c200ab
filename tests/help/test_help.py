"""What a person meets before anything is done: help and usage errors."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer.main

from docora_ops import __version__
from docora_ops.cli.app import app
from tests.support.docora import Docora, Result

DRIVERS = {"psycopg", "psycopg_binary", "redis", "rq", "prometheus_client"}
NOT_FOR_HELP = {*DRIVERS, "pydantic", "pydantic_core", "pydantic_settings", "rich", "markdown_it"}
TRACE = {"PYTHONPROFILEIMPORTTIME": "1"}


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


def test_every_help_explains_each_option_and_shows_an_example_and_loads_no_driver(
    docora: Docora,
) -> None:
    names = {f"{name} --help".strip(): command for name, command in commands().items()}
    for arguments, result in run_all(docora, map(str.split, names), **TRACE):
        said, imported = split_trace(result)
        assert (result.code, said) == (0, ""), arguments
        assert not imported & NOT_FOR_HELP, arguments
        assert "\x1b" not in result.stdout
        assert len(result.stdout.splitlines()) <= 40, arguments
        assert max(map(len, result.stdout.splitlines())) < 80
        text = re.sub(r"[-\s]+", "", result.stdout)
        assert "Example:docoraops" in text
        command = names[" ".join(arguments)]
        for parameter in command.params:
            assert re.sub(r"[-\s]+", "", parameter.help) in text, parameter.name
            for option in parameter.opts:
                assert not option.startswith("-") or re.search(f" {option}[, \n]", result.stdout)


def test_the_trace_of_imports_does_see_a_driver(docora: Docora) -> None:
    """Without this the tests for what is not loaded could not fail."""
    _, imported = split_trace(docora.run("progress", "bulk_x", env=TRACE))
    assert imported & DRIVERS == {"redis", "rq"}
    assert {"pydantic", "rich"} <= imported


def test_the_whole_lists_every_command_and_tells_the_version(docora: Docora) -> None:
    version, whole, nothing = docora.run_together(["--version"], ["--help"], [])
    assert (version.code, version.stdout) == (0, f"docora-ops {__version__}\n")
    assert (nothing.code, nothing.stdout, nothing.stderr) == (2, whole.stdout, "")
    for name, command in commands().items():
        if name:
            line = rf"(?m)^  {name} +{re.escape(command.short_help)}$"
            assert re.search(line, whole.stdout), name


def test_usage_errors_are_one_sentence_or_one_document_and_load_no_driver(docora: Docora) -> None:
    wrong = [
        ["nonsense"],
        ["retry"],
        ["retry", "one"],
        ["retry", "one", ""],
        ["retry", "one", "two", "--nonsense"],
        ["retry", "one", "two", "--front=yes"],
        ["retry", "one", "two", "--timeout", "9"],
        ["retry-all-failed", "--limit"],
        ["retry-all-failed", "--limit", "many"],
        ["retry-all-failed", "--app", " "],
        ["retry-all-failed", "--error", ""],
        ["retry-all-failed", "--wait", "--timeout", "0"],
        ["retry-all-failed", "--reset-circuit", "--circuit", "closed"],
        ["resync", "one"],
        ["resync", "one", "two", "--all"],
        ["resync", "one", "--all", "--wait", "--dry-run"],
        ["queue", "--limit", "0"],
        ["failed", "--group-by", "nonsense"],
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
    unquoted, typo = docora.run_together(["retry", "Acme", "Search", "octo/api"], ["retri"])
    hint = "Hint: quote names that contain spaces; see docora-ops retry --help\n"
    assert unquoted.stderr.endswith(hint)
    assert "Did you mean 'retry'" in typo.stderr
