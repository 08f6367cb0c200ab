"""What all commands have in common: help, usage errors, streams, secrets, settings."""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer.main

from docora_ops.cli.app import COMMANDS, app
from tests.support.docora import COMMAND, Docora
from tests.support.running_commands import await_locks
from tests.support.terminal import TerminalSession, plain_data

ROOT = Path(__file__).parents[2]
HELP = ROOT / "docora_ops" / "help"
TOPICS = sorted(file.stem for file in HELP.glob("[a-z]*.md"))
GROUP: Any = typer.main.get_command(app)
EXAMPLES = [example for commands in COMMANDS.values() for _, example in commands]
DOCUMENTS = [ROOT / "README.md", *sorted(HELP.glob("*.md"))]
_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(docora-ops [^`\n]+)`")
_COMMAND = re.compile(r"(?:^|[\s/])docora-ops ([^\n>|;)]+)", re.MULTILINE)


def test_readme_names_each_command_with_an_example_and_each_topic() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| .+ \| `docora-ops \1\b.*` \|$", readme, re.MULTILINE)
    assert sorted(rows) == sorted(GROUP.commands)
    section = readme.partition("\n## Topics\n")[2].partition("\n## ")[0]
    assert re.findall(r"docora_ops/help/(.+?)\.md", section) == TOPICS


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_each_command_line_in_the_words_parses_and_each_link_leads_to_a_file(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    fenced = [code for kind, code in _FENCED.findall(text) if kind in {"sh", "ini"}]
    for line in _COMMAND.findall("\n".join([*fenced, *_INLINE.findall(text)])):
        words = shlex.split(line, comments=True)
        if words[0] in {"COMMAND", "--install-completion"} or words[1:] == ["TOPIC"]:
            continue
        GROUP.commands[words[0]].make_context(words[0], words[1:])
        assert words[0] != "help" or {*words[1:]} <= {*TOPICS, "grafana.json"}, line
    for target in re.findall(r"\]\((?!https:)([^)\s]+)\)", text):
        assert (file.parent / target).is_file(), target


def test_each_example_of_a_help_page_parses() -> None:
    for words in map(shlex.split, EXAMPLES):
        GROUP.commands[words[0]].make_context(words[0], words[1:])


def test_each_help_page_has_an_example_and_neither_it_nor_a_usage_error_loads_a_driver(
    docora: Docora,
) -> None:
    # Typer itself imports pydantic for numbers.
    script = """if True:
        import sys
        from docora_ops.cli.app import run
        for words in COMMANDS:
            run(words)
        drivers = ("psycopg", "redis", "rq", "pydantic_settings", "rich")
        print([name for name in drivers if name in sys.modules])
    """
    pages = [[name, "--help"] for name in GROUP.commands]
    lines = [["--help"], *pages, ["retry"], ["help", "links"], ["--version"]]
    done = subprocess.run(
        [sys.executable, "-c", script.replace("COMMANDS", repr(lines))],
        capture_output=True,
        text=True,
        check=True,
        env=docora.environment(),
    )
    for name in GROUP.commands:
        assert f"Example: docora-ops {name}" in done.stdout
    assert "Missing argument" in done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_shows_topics_commands_and_the_dashboard(docora: Docora) -> None:
    listed = docora.run("help").ended(0).stdout
    assert all(f"`{topic}`" in listed for topic in TOPICS)
    assert "Exit codes" in docora.run("help", "exit-codes").ended(0).stdout
    assert "--reset-circuit" in docora.run("help", "retry").ended(0).stdout
    assert json.loads(docora.run("help", "grafana.json").ended(0).stdout)["panels"]
    docora.run("help", "exit-code").ended(2, says="did you mean exit-codes?")


@pytest.mark.parametrize(
    "words",
    [
        ["retry"],
        ["retry", "A", "B", "C"],
        ["retry", "A", ""],
        ["nothing"],
        ["links", "--limit", "0"],
        ["links", "--status", "broken"],
        ["resync", "A"],
        ["resync", "A", "B", "--all"],
        ["repair", "A"],
        ["operations", "--follow"],
        ["retry", "A", "B", "--timeout", "soon"],
        ["doctor", "--max-failed", "101%"],
    ],
)
def test_bad_usage_exits_with_2_and_one_document(docora: Docora, words: list[str]) -> None:
    docora.add_link()
    before = docora.dump()
    docora.run(*words, "--json").ended(2, "usage")
    assert docora.dump() == before


def test_missing_and_unusable_settings_are_named_without_their_values(docora: Docora) -> None:
    missing = docora.run("status", "--json", env={"DATABASE_URL": None})
    missing.ended(2, "configuration", says="DATABASE_URL is not set")
    for name, value in (
        ("DATABASE_URL", "mysql://u:hush@h/d"),
        ("DATABASE_URL", "postgres://u:hu/sh@h:x/d"),
        ("REDIS_URL", "http://:hush@h"),
        ("MAX_RETRY_ATTEMPTS", "hush"),
        ("DOCORA_OPS_BACKEND", "hush"),
    ):
        result = docora.run("status", "--json", env={name: value}).ended(2, "configuration")
        assert name in result.stderr
        assert "hush" not in result.stdout + result.stderr


def test_an_env_file_and_files_of_secrets_are_read(docora: Docora, tmp_path: Path) -> None:
    file = tmp_path / "docora.env"
    file.write_text(f"DATABASE_URL={docora.database_url}\nOTHER=1\n")
    docora.run("links", "--env-file", str(file), env={"DATABASE_URL": None}).ended(0)
    docora.run("links", env={"DATABASE_URL": None, "DOCORA_OPS_ENV_FILE": str(file)}).ended(0)
    (tmp_path / "DATABASE_URL").write_text(docora.database_url)
    secrets = {"DATABASE_URL": None, "DOCORA_OPS_SECRETS_DIR": str(tmp_path)}
    docora.run("links", env=secrets).ended(0)
    docora.run("links", "--env-file", "/no/such/file", "--json").ended(2, "configuration")


def test_servers_that_are_away_exit_with_5_and_show_no_password(docora: Docora) -> None:
    link = docora.add_link()
    for env in (
        {"DATABASE_URL": "postgres://user:hush@127.0.0.1:1/docora"},
        {"REDIS_URL": "redis://user:hush@127.0.0.1:1"},
    ):
        for words in (["retry", *link.ids], ["retry-all-failed", "--yes"], ["status"]):
            result = docora.run(*words, "--json", env=env)
            assert result.code == 5, result
            assert "hush" not in result.stdout + result.stderr
            json.loads(result.stdout)
    assert docora.status(link) == "failed"


HOSTILE = "evil\x1b[31m\r\nname\u202e [bold]x[/bold] ghp_0123456789abcdefghij"


def test_text_of_the_database_is_inert_and_secrets_are_masked(docora: Docora) -> None:
    app_id = docora.add_app(HOSTILE[:100])
    link = docora.link(app_id, docora.add_repository("octo/api"), last_error=HOSTILE)
    url = "https://user:hush@app.example/hook?key=hush"
    docora.connection.execute("UPDATE apps SET base_url = %s", [url])
    for words in (
        ["failed"],
        ["failed", "--group-by", "app"],
        ["failed", "--group-by", "error"],
        ["show", *link.ids],
        ["status"],
        ["retry-all-failed", "--dry-run"],
        ["retry", *link.ids],
        ["operations"],
    ):
        for as_json in ([], ["--json"]):
            result = docora.run(*words, *as_json)
            assert result.code in {0, 4}, result
            shown = result.stdout + result.stderr
            assert not {"\x1b", "\r", "\u202e"} & set(shown), words
            assert "hush" not in shown, words
            assert "ghp_0123" not in shown, words
            assert "aa11aa11" not in shown, words


def test_a_screen_of_80_columns_has_no_longer_line(docora: Docora) -> None:
    docora.add_links(30, apps=3, last_error="HTTP 502 " + "x" * 300)
    for words in (["status"], ["failed"], ["links"], ["operations"], ["doctor", "--all"]):
        with TerminalSession(docora, *words) as terminal:
            _, shown = terminal.end()
        lines = [plain_data(line.rstrip("\r")) for line in shown.split("\n")]
        assert max(map(len, lines)) <= 80, (words, lines)
        if words == ["status"]:
            assert len(lines) <= 24


def test_a_reader_that_stops_early_changes_no_exit_code(docora: Docora) -> None:
    docora.add_links(3_000)
    line = "docora-ops links --limit 10000 | head -n 1; echo ${PIPESTATUS[0]}"
    path = f"{COMMAND.parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", line],
        env=docora.environment(PATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == "" or "3,000 links" in done.stderr


def test_a_full_disk_is_reported(docora: Docora) -> None:
    with Path("/dev/full").open("w") as full:
        result = docora.run("links", stdout=full)
    result.ended(6, says="the output can't be written")


def test_an_interrupted_command_exits_with_130(docora: Docora) -> None:
    docora.add_link()
    with psycopg.connect(docora.database_url) as other:
        other.execute("LOCK TABLE app_repositories")
        process = docora.start("links")
        await_locks(docora)
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.wait() == 130
