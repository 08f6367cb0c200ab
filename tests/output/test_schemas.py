"""Each command with --json has a schema; `finish` holds every document of a test against it."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import typer
from jsonschema import Draft202012Validator

from docora_ops import __version__
from docora_ops.cli.app import app
from docora_ops.cli.schemas import schema_of
from tests.support.docora import Docora
from tests.support.documents import check_document

STAMP = '{"printed_at": "2026-01-01T00:00:00.000Z", "command": "docora-ops cancel x --json", %s}'
DONE = '"data": {"message": "m", "operation_id": "x", "already_cancelled": false}'


@pytest.mark.slow
def test_each_command_with_json_has_a_schema_and_no_other_has(docora: Docora) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        has_json = any("--json" in parameter.opts for parameter in command.params)
        assert (schema_of(name) is not None) == has_json, name
        if schema := schema_of(name):
            Draft202012Validator.check_schema(schema)
            assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"], name
            assert schema["$id"] == f"urn:docora-ops:{__version__}:{name}"
    printed = docora.run("help", "json", "--schema", "show")
    assert (printed.code, json.loads(printed.stdout)) == (0, schema_of("show"))
    refused = docora.run("help", "json", "--schema", "worker")
    assert (refused.code, "no command with --json" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_a_document_has_its_moment_and_the_command_as_it_was_typed(docora: Docora) -> None:
    """cron appends them to a file."""
    for words, code in (("links --error 'HTTP 502' --json", 0), ("no-such-command --json", 2)):
        result = docora.run_in_shell(f"docora-ops {words}")
        document = json.loads(result.stdout)
        assert (result.code, document["command"]) == (code, f"docora-ops {words}")
        printed_at = datetime.fromisoformat(document["printed_at"])
        assert abs(datetime.now(UTC) - printed_at) < timedelta(seconds=60)


def test_a_document_that_does_not_fit_its_schema_is_found() -> None:
    check_document(STAMP % DONE)
    for wrong in (
        DONE.replace('"m"', "1"),
        DONE.replace("false", 'false, "other": 1'),
        DONE.replace(', "already_cancelled": false', ""),
        '"failed": 1',
    ):
        with pytest.raises(AssertionError, match="docora-ops cancel"):
            check_document(STAMP % wrong)
