"""What a person meets before anything is done: help and usage errors."""

import re
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


def test_every_help_explains_each_option_and_shows_an_example(docora: Docora) -> None:
    names = {f"{name} --help".strip(): command for name, command in commands().items()}
    for arguments, command in names.items():
        result = docora.run(*arguments.split())
        assert (result.code, result.stderr) == (0, ""), arguments
        assert "\x1b" not in result.stdout
        assert len(result.stdout.splitlines()) <= 40, arguments
        assert max(map(len, result.stdout.splitlines())) < 80
        text = re.sub(r"[-\s]+", "", result.stdout)
        assert "Example:docoraops" in text
        for parameter in command.params:
            assert re.sub(r"[-\s]+", "", parameter.help) in text, parameter.name
            for option in parameter.opts:
                assert not option.startswith("-") or re.search(f" {option}[, \n]", result.stdout)


def test_neither_help_nor_a_usage_error_loads_a_driver(docora: Docora) -> None:
    for words, code in (
        ("--help", 0),
        ("retry-all-failed --help", 0),
        ("nonsense", 2),
        ("retry one --json", 2),
        ("retry-all-failed --limit many --json", 2),
    ):
        result = docora.run(*words.split(), env=TRACE)
        _, imported = split_trace(result)
        assert result.code == code, result
        assert not imported & (DRIVERS if code else NOT_FOR_HELP), words
    # Without this the test could not fail.
    _, imported = split_trace(docora.run("progress", "bulk_x", env=TRACE))
    assert imported & DRIVERS == {"redis", "rq"}
    assert {"pydantic", "rich"} <= imported


def test_the_whole_lists_every_command_and_tells_the_version(docora: Docora) -> None:
    version, whole, nothing = docora.run_together(["--version"], ["--help"], [])
    assert (version.code, version.stdout) == (0, f"docora-ops {__version__}\n")
    assert (nothing.code, nothing.stdout, nothing.stderr) == (2, whole.stdout, "")
    for name, command in commands().items():
        if name:
            summary = command.help.partition("\n")[0]
            line = rf"(?m)^  {name} +{re.escape(summary)}$"
            assert re.search(line, whole.stdout), name


def test_options_that_exclude_each_other_and_slips_are_usage_errors(
    docora: Docora,
) -> None:
    """Each wrong value: tests/errors/test_wrong_arguments.py."""
    for words in (
        "retry one two --timeout 9",
        "retry-all-failed --wait --timeout 0",
        "resync one",
        "resync one --all --wait --dry-run",
    ):
        result = docora.run(*words.split(), "--json")
        assert (result.code, result.json["code"]) == (2, "usage"), result
        assert re.match(r"Error: \S.*\nHint: \S.*\n\Z", result.stderr), result
    typo = docora.run("retri")
    assert "Did you mean 'retry'" in typo.stderr
    unquoted = docora.run("retry", "Acme", "Search", "octo/api")
    hint = "Hint: quote names that contain spaces; see docora-ops retry --help\n"
    assert unquoted.stderr.endswith(hint)
