"""README keeps up with the commands: what is missing there, or there only, fails here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import SecretStr

from docora_ops import errors
from docora_ops.audit import HistoryState
from docora_ops.bulk import OperationState
from docora_ops.cli.app import app
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.jobs import JobState
from docora_ops.links import Outcome
from docora_ops.settings import Settings
from docora_ops.waits import WaitEnd

NO_DEFAULT = "\N{EN DASH}"


@pytest.fixture
def readme(repository_root: Path) -> str:
    return (repository_root / "README.md").read_text(encoding="utf-8")


def group() -> Any:
    """Typer's own object of the whole, so that a new command or option is seen."""
    return typer.main.get_command(app)


def options_of(command: Any) -> set[str]:
    return {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }


def arguments_of(command: Any) -> set[str]:
    return {
        parameter.metavar for parameter in command.params if parameter.param_type_name == "argument"
    }


def section_of(readme: str, command: str) -> str:
    """The text under the heading of a command."""
    found = re.search(
        rf"^### `docora-ops {command}\b.*?(?=^##|\Z)", readme, re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"no section for {command}"
    return found.group()


def test_every_command_has_a_section_with_an_example_and_all_its_options(readme: str) -> None:
    for name, command in group().commands.items():
        section = section_of(readme, name)
        assert re.search(rf"^\$ docora-ops {name}\b", section, re.MULTILINE), name
        missing = {option for option in options_of(command) if f"`{option}" not in section}
        assert not missing, name
        heading = section.splitlines()[0]
        assert not {argument for argument in arguments_of(command) if argument not in heading}


def test_every_option_of_the_whole_is_there(readme: str) -> None:
    assert options_of(group()) >= {"--env-file", "--version"}
    assert not {option for option in options_of(group()) if option not in readme}


def test_no_option_is_there_that_no_command_has(readme: str) -> None:
    commands = {name: options_of(command) for name, command in group().commands.items()}
    ours = options_of(group()) | {"--help"}
    strange = []
    for line in re.sub(r"\\\n\s*", "", readme).splitlines():
        for call in re.findall(r"docora-ops( [^#|`&;>)\n]*)", line):
            words = call.split()
            name = next((word for word in words if word in commands), None)
            fitting = ours | (commands[name] if name else set())
            for word in words:
                option = word.split("=")[0].rstrip(".,")
                if re.fullmatch(r"--?[a-z][a-z-]*", option) and option not in fitting:
                    strange.append(f"{option} in: {line}")
    for name, known in commands.items():
        rows = re.findall(r"^\| `(-.*?)\|", section_of(readme, name), re.MULTILINE)
        named = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(rows))
        strange += [f"{option} of {name}" for option in named if option not in known]
    assert not strange


def test_every_exit_code_has_its_row_and_no_other_does(readme: str) -> None:
    table = readme[readme.index("## Exit codes") :]
    table = table[: table.index("\n## ", 1)]
    rows = re.findall(r"^\| (\d+) \| \S", table, re.MULTILINE)
    assert rows == [str(int(code)) for code in ExitCode]


def test_every_setting_has_its_row_with_its_default(readme: str) -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| \S", readme, re.MULTILINE))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        variable = str(field.validation_alias or name.upper())
        expected[variable] = NO_DEFAULT if default is None else str(default)
    assert {name: default.strip("`") for name, default in rows.items()} == expected


def test_every_code_and_word_of_the_documents_is_explained(readme: str) -> None:
    def codes(kind: type[errors.DocoraOpsError]) -> set[str]:
        return {kind.code}.union(*(codes(each) for each in kind.__subclasses__()))

    # Errors of these kinds are never raised themselves.
    abstract = {"error", "refused", "server", "unqueueable"}
    words = {
        *(codes(errors.DocoraOpsError) - codes(errors.SnapshotError) - abstract),
        "bug",
        *(outcome.value for outcome in Outcome),
        *(state.value for state in JobState if state is not JobState.UNREADABLE),
        *(state.value for state in (*OperationState, *HistoryState)),
        *(
            "failures_not_kept",
            "last_step_at",
            "started_at",
            "who",
            "selection",
            "reason",
            "counts",
        ),
        *("deliveries_cleared", "open_circuits_left_out", "circuit_open_until", "workers"),
        *(end.value for end in WaitEnd),
        *("waited", "failed_links", "gone", "running", "seconds"),
        *("app_ids", "repository_ids", "dry_run", "failures", "links", "hint"),
    }
    assert not {word for word in words if not re.search(rf"[`\"]{word}[`\"]", readme)}


def test_the_recipes_that_people_come_for_are_there(readme: str) -> None:
    for recipe in ("crontab", "systemd", "CronJob", "GitHub Actions", "GRANT ", "pipx", "uv tool"):
        assert recipe in readme
