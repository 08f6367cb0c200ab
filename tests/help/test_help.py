"""What a person meets before anything is done: help of commands and topics, and usage errors."""

import re

from docora_ops import __version__
from tests.help.documents import TOPICS, group, topic
from tests.support.docora import Docora, Result
from tests.support.terminal import on_terminal

DRIVERS = {"psycopg", "psycopg_binary", "redis", "rq", "prometheus_client"}
NOT_FOR_HELP = {*DRIVERS, "pydantic", "pydantic_core", "pydantic_settings", "rich", "markdown_it"}
TRACE: dict[str, str | None] = {"PYTHONPROFILEIMPORTTIME": "1"}
NOTHING_SET: dict[str, str | None] = {"DATABASE_URL": None, "REDIS_URL": None}


def packages(result: Result) -> set[str]:
    """The packages that a command imported."""
    return set(re.findall(r"^import time:.*\| *(\w+)", result.stderr, re.MULTILINE))


def test_every_help_explains_each_option_and_shows_an_example(docora: Docora) -> None:
    for name, command in {"": group(), **group().commands}.items():
        arguments = [*name.split(), "--help"]
        result = docora.run(*arguments)
        assert (result.code, result.stderr) == (0, ""), arguments
        assert "\x1b" not in result.stdout
        assert len(result.stdout.splitlines()) <= 52, arguments
        assert max(map(len, result.stdout.splitlines())) < 80
        text = re.sub(r"[-\s]+", "", result.stdout)
        assert "Example:docoraops" in text
        for parameter in command.params:
            assert re.sub(r"[-\s]+", "", parameter.help) in text, parameter.name
            for option in parameter.opts:
                assert not option.startswith("-") or re.search(f" {option}[, \n]", result.stdout)


def test_help_usage_errors_and_the_check_of_a_worker_load_no_driver(docora: Docora) -> None:
    for words, code in (
        ("--help", 0),
        ("retry-all-failed --help", 0),
        ("help", 0),
        ("nonsense", 2),
        ("retry one --json", 2),
        ("retry-all-failed --limit many --json", 2),
        ("worker --check", 6),
    ):
        result = docora.run(*words.split(), env=TRACE).ended(code)
        is_help = words.endswith("--help")
        assert not packages(result) & (NOT_FOR_HELP if is_help else DRIVERS), words
    # Without this the test could not fail.
    imported = packages(docora.run("operations", "bulk_x", env=TRACE))
    assert imported & DRIVERS == {"redis", "rq"}
    assert {"pydantic", "rich"} <= imported


def test_the_whole_lists_every_command_and_tells_the_version(docora: Docora) -> None:
    version, whole, nothing = docora.run_together(["--version"], ["--help"], [])
    assert (version.code, version.stdout) == (0, f"docora-ops {__version__}\n")
    assert (nothing.code, nothing.stdout, nothing.stderr) == (2, whole.stdout, "")
    headings = re.findall(r"(?m)^(\S.*):$", whole.stdout)
    assert headings[1:] == [
        *("See the state", "Put links back to work", "Follow changes", "Run and set up")
    ]
    for name, command in group().commands.items():
        summary = command.help.partition("\n")[0]
        line = rf"(?m)^  {name} +{re.escape(summary)}$"
        assert re.search(line, whole.stdout), name


def test_options_that_exclude_each_other_and_slips_are_usage_errors(docora: Docora) -> None:
    """Each wrong value: tests/errors/test_wrong_arguments.py."""
    for words in (
        "retry one two --timeout 9",
        "retry-all-failed --wait --timeout 0",
        "resync one",
        "resync one --all --wait --dry-run",
    ):
        result = docora.run(*words.split(), "--json").ended(2, "usage")
        assert re.match(r"Error: \S.*\nHint: \S.*\n\Z", result.stderr), result
    assert "Did you mean 'retry'" in docora.run("retri").stderr
    for name, hint in (("stauts", "did you mean status?"), ("zzz", "see docora-ops --help for")):
        docora.run("help", name).ended(2, says=f"Hint: {hint}")


def test_an_option_before_the_command_is_told_where_it_belongs(docora: Docora) -> None:
    for typed in (("--env-file", "x", "status"), ("--env-file=x", "show", "Acme", "octo/api")):
        result = docora.run(*typed)
        hint = "Hint: options go after the command: docora-ops COMMAND --env-file; see "
        assert (result.code, hint in result.stderr) == (2, True), result
    assert "options go" not in docora.run("status", "--nonsense").stderr


def test_each_page_is_the_help_of_the_command_and_then_the_topic(docora: Docora) -> None:
    both = TOPICS.keys() & group().commands
    for name in (*both, "cancel", "recipes"):
        result = docora.run("help", name, env=NOTHING_SET)
        pages = [topic(name)] if name in TOPICS else []
        if name in group().commands:
            shown = docora.run(name, "--help").stdout
            pages.insert(0, f"# docora-ops {name}\n\n```text\n{shown}```\n")
        assert (result.code, result.stderr, result.stdout) == (0, "", "\n".join(pages)), name


def test_a_dumb_narrow_terminal_gets_whole_lines_without_escapes(docora: Docora) -> None:
    code, shown = on_terminal(docora, ["help", "recipes"], columns=60, env={"TERM": "dumb"})
    assert code == 0
    assert "\x1b" not in shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    blocks = re.findall(r"^```\w*\n(.*?)^```", topic("recipes"), re.MULTILINE | re.DOTALL)
    lines = {line for block in blocks for line in block.splitlines()}
    assert max(map(len, lines)) > 100
    assert lines - {""} <= set(shown.splitlines())


def test_a_terminal_gets_a_topic_in_its_width_without_markup(docora: Docora) -> None:
    code, shown = on_terminal(docora, ["help", "exit-codes"], columns=70)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).split("\r\n")
    assert code == 0
    assert " 130   interrupted (SIGINT, SIGTERM), or the question was answered" in map(
        str.rstrip, lines
    )
    assert max(map(len, lines)) <= 70
    assert not re.search(r"\]\(|\||`", shown)
