"""README, CONTRIBUTING and topics keep up with the code: commands, settings, codes, states, ..."""

import ast
import re
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from docora_ops import errors
from docora_ops.actions.checks import CheckName
from docora_ops.actions.drift import DriftKind
from docora_ops.cli.exit_codes import ExitCode, exit_code_of, gravest
from docora_ops.jobs import JobState
from docora_ops.operations import OperationState, StoppedBy
from docora_ops.settings import Settings
from tests.help.documents import ALL, INDEX, README, ROOT, TOPICS, command_lines, group, read, topic
from tests.support.docora import Docora, finish

NO_DEFAULT = "\N{EN DASH}"
ABSTRACT = {"error", "refused", "server", "unqueueable"}
"""The codes of errors that are never raised themselves."""


def kinds(kind: type[errors.DocoraOpsError]) -> list[type[errors.DocoraOpsError]]:
    """Returns the kind and all kinds below it, except those that only a job or the demo meets."""
    if kind is errors.SnapshotError or kind.__module__ != errors.__name__:
        return []
    return [kind, *(each for below in kind.__subclasses__() for each in kinds(below))]


def test_every_exit_code_has_its_row_and_no_other_does() -> None:
    rows = re.findall(r"^\| (\d+) \| \S", topic("exit-codes"), re.MULTILINE)
    assert rows == [str(int(code)) for code in ExitCode]


def test_every_command_whose_help_names_exit_code_6_is_listed_under_it() -> None:
    listed = topic("exit-codes").split("(6) if:")[1]
    helps = ((name, command.help) for name, command in group().commands.items())
    commands = {name for name, text in helps if re.search(r"\bcode\s+6\b", text)}
    assert commands >= {"deliveries", "report", "verify"}
    assert {name for name in commands if f"`{name}" not in listed} == set()


def test_every_setting_has_its_row_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| \S", topic("environment"), re.MULTILINE))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, bool):
            default = "yes" if default else "no"
        variable = str(field.validation_alias or name.upper())
        expected[variable] = NO_DEFAULT if default is None else str(default)
    assert {name: default.strip("`") for name, default in rows.items()} == expected


def test_the_commands_that_the_topic_names_need_no_database(docora: Docora) -> None:
    operation = "bulk_0123456789abcdef"
    docora.redis.hset(f"docora:bulk:{operation}", "total", "9")
    [sentence] = re.findall(r"(`queue`.*?) do not need it", topic("environment"))
    for command in re.findall(r"`(\w+)`", sentence):
        arguments = [operation] if command == "cancel" else []
        docora.run(command, *arguments, env={"DATABASE_URL": None}).ended(0)
    assert {"pause", "resume"} <= set(re.findall(r"`(\w+)`", sentence))


def test_every_error_code_has_its_row_with_its_exit_code() -> None:
    table = topic("json").partition("## Errors")[2]
    rows = {
        code: int(exit_code)
        for codes, exit_code in re.findall(r"^\| (`.*?`) \| (\d+) \|", table, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    expected = {each.code: int(exit_code_of(each(""))) for each in kinds(errors.DocoraOpsError)}
    assert rows == {"bug": 1} | {
        code: exit_code for code, exit_code in expected.items() if code not in ABSTRACT
    }


def test_every_check_of_doctor_has_its_row_once() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", topic("doctor"), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(names) == sorted(CheckName)


def test_every_kind_of_drift_and_every_state_has_its_row() -> None:
    tables: dict[str, list[str]] = {
        "repair": [*DriftKind],
        "links": [*JobState],
        "operations": [*OperationState, *StoppedBy],
    }
    for name, states in tables.items():
        rows = re.findall(r"^\| `(\w+)` \|", topic(name), re.MULTILINE)
        assert sorted(rows) == sorted(states)


@pytest.mark.slow
def test_every_message_under_troubleshooting_is_one_of_ours() -> None:
    said = set()
    for file in (ROOT / "docora_ops").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)
    texts = "\n".join(said).replace("already_running", "already running")
    messages = re.findall(r"^## (`.*`)", topic("troubleshooting"), re.MULTILINE)
    ours = [each for message in messages for each in re.findall(r"`([^`]+)`", message)]
    # Postgres says that itself.
    assert [each for each in ours if each not in texts] == ["permission denied"]


def test_every_command_has_one_row_with_an_example() -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)` \| [a-z].* \| `docora-ops ([a-z-]+)\b.*` \|$", read(README), re.MULTILINE
    )
    assert rows == [(name, name) for name in group().commands]


def test_every_topic_is_linked() -> None:
    linked = re.findall(r"\(docora_ops/help/([a-z-]+)\.md\)", read(README))
    assert set(linked) == set(TOPICS)


def test_the_index_on_github_lists_every_topic_as_help_does(docora: Docora) -> None:
    listed = re.findall(r"^- .*", docora.run("help").stdout, re.MULTILINE)
    index = re.findall(r"^- .*", read(INDEX), re.MULTILINE)
    assert [re.sub(r"\[(`[a-z-]+`)\]\([a-z-]+\.md\)", r"\1", line) for line in index] == listed
    assert re.findall(r"\(([a-z-]+)\.md\)", read(INDEX)) == list(TOPICS)
    assert docora.run("help", "README").code == 2


def test_every_link_leads_to_a_file() -> None:
    for file in ALL:
        targets = re.findall(r"\]\(([^)]+)\)", read(file))
        assert [each for each in targets if not (file.parent / each).is_file()] == [], file


def test_every_command_line_can_be_parsed() -> None:
    for file in ALL:
        for name, *arguments in command_lines(read(file)):
            group().commands[name].make_context(name, arguments)


def test_the_codes_are_those_of_the_design_and_an_interrupt_comes_first() -> None:
    assert [int(code) for code in ExitCode] == [*range(9), 129, 130]
    codes = {ExitCode(code) for code in (0, 6, 7, 8, 129, 130)}
    ordered = []
    while codes:
        ordered.append(int(gravest(codes)))
        codes.remove(gravest(codes))
    assert ordered == [129, 130, 7, 6, 8, 0]


# Runs a command, and prints each function of the package that it enters, in the order of their
# first calls, as `file.py: name`.
TRACE = """
import sys
from pathlib import Path
import docora_ops.__main__
from docora_ops.cli.app import run

package = Path(docora_ops.__file__).parent
entered = {}

def note(frame, event, _):
    if event == "call":
        entered.setdefault(frame.f_code)

sys.setprofile(note)
code = run(sys.argv[1:])
sys.setprofile(None)
for function in entered:
    file = Path(function.co_filename)
    if file.is_relative_to(package):
        print(f"{file.relative_to(package)}: {function.co_qualname}", file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
def test_the_way_of_one_retry_is_true_to_the_code(docora: Docora, repository_root: Path) -> None:
    """To update the list: what this command entered stands in the failed assertion."""
    text = (repository_root / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## The way of one retry")[2].partition("\n## ")[0]
    doors = re.findall(r"^\d+\. `(\S+\.py: [\w.]+)`", section, re.MULTILINE)
    assert len(doors) > 10
    link = docora.add_link()
    retry = finish(docora.start_program(sys.executable, "-c", TRACE, "retry", *link.ids))
    assert docora.was_reset(link)
    entered = retry.stderr.splitlines()
    assert [door for door in entered if door in doors] == doors, retry.stderr
