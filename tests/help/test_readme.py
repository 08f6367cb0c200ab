"""README names every command and topic, and shows only what exists."""

import re
from pathlib import Path

import pytest

from tests.help.documents import ALL, README, TOPICS, command_lines, group, read


def test_every_command_has_one_row_with_an_example() -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)` \| [a-z].* \| `docora-ops ([a-z-]+)\b.*` \|$", read(README), re.MULTILINE
    )
    assert rows == [(name, name) for name in group().commands]


def test_every_topic_is_linked() -> None:
    linked = re.findall(r"\(docora_ops/help/([a-z-]+)\.md\)", read(README))
    assert set(linked) == set(TOPICS)


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.name)
def test_every_link_leads_to_a_file(file: Path) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", read(file))
    assert [each for each in targets if not (file.parent / each).is_file()] == []


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.name)
def test_every_command_line_can_be_parsed(file: Path) -> None:
    for words in command_lines(read(file)):
        whole = group().make_context("docora-ops", words)
        name, command, arguments = whole.command.resolve_command(whole, whole._protected_args)
        command.make_context(name, arguments + whole.args)
