"""What the topic `stability` promises to scripts is still there: released.txt lists it.

WRITE_INTERFACE=1 writes what there is now into the file instead, for a release. Each command with
--json has a schema, and `finish` holds every document of a test against it.
"""

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from docora_ops import __version__, actions
from docora_ops.cli.schemas import schema_of
from docora_ops.settings import Settings
from tests.help.documents import ROOT, group, topic
from tests.support.docora import Docora
from tests.support.documents import check_document

RELEASED = ROOT / "tests" / "interface" / "released.txt"
FREE_LABELS = {"app_id", "error", "queue", "target"}
"""Labels of metrics whose values are names and errors of the installation."""


def exit_codes() -> Iterator[str]:
    """Other tests hold the tables of the topics against the code."""
    for code in re.findall(r"^\| (\d+) \|", topic("exit-codes"), re.MULTILINE):
        yield f"exit code {code}"
    table = topic("json").partition("## Errors")[2]
    for names, code in re.findall(r"^\| (`.*?`) \| (\d+) \|", table, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            yield f"error {name}: exit code {code}"


def options() -> Iterator[str]:
    for command, found in group().commands.items():
        yield f"command {command}"
        for number, parameter in enumerate(found.params, 1):
            is_option = parameter.opts[0].startswith("-")
            for name in parameter.opts if is_option else [f"argument {number}"]:
                is_flag = is_option and parameter.is_flag
                is_many = parameter.multiple or parameter.nargs < 0
                kind = "flag" if is_flag else "any number of values" if is_many else "value"
                yield f"{command} {name}: {kind}"
                of_values = parameter.type_descriptor.annotation
                is_enum = isinstance(of_values, type) and issubclass(of_values, StrEnum)
                for value in of_values if is_enum else get_args(of_values):
                    if isinstance(value, str):
                        yield f"{command} {name} {value}"


def variables() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        yield f"variable {field.validation_alias or name.upper()}"


def python() -> Iterator[str]:
    for names in actions._MODULES.values():
        yield from (f"python docora_ops.actions.{name}" for name in names)


def documents() -> Iterator[str]:
    for command in group().commands:
        if schema := schema_of(command):
            for field in fields(schema, schema.get("$defs", {}), ""):
                is_own = field.startswith("data")
                yield f"json {command if is_own else 'COMMAND'} {field}"


def fields(schema: dict[str, Any], definitions: dict[str, Any], path: str) -> Iterator[str]:
    """Yields the path of each field in a document with its types, and its values if few."""
    kinds = []
    for each in schema.get("anyOf", [schema]):
        kind = definitions[each["$ref"].rpartition("/")[2]] if "$ref" in each else each
        kinds.append(kind.get("format") or kind.get("type", "any"))
        yield from (f'{path} "{value}"' for value in kind.get("enum", ()))
        for name, field in kind.get("properties", {}).items():
            yield from fields(field, definitions, f"{path}.{name}" if path else name)
        for name, below in (("items", "[]"), ("additionalProperties", ".NAME")):
            if isinstance(kind.get(name), dict):
                yield from fields(kind[name], definitions, path + below)
    if path:
        yield f"{path}: {' or '.join(sorted(set(kinds)))}"


def metrics(docora: Docora) -> Iterator[str]:
    docora.queue_job(docora.add_link())
    docora.link(docora.add_app("Acme Search"), docora.add_repository("octo/api"), "failed")
    for minutes in (1, 2, 3):
        docora.add_link("synced", scanned=timedelta(minutes=minutes))
    text = docora.run("metrics", "--by-app", "--by-error").stdout
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = (
                f'{name}="{"…" if name in FREE_LABELS else value}"'
                for name, value in sorted(sample.labels.items())
            )
            yield f"metric {sample.name}{{{','.join(labels)}}} {family.type}"


def test_all_that_was_released_is_still_there(docora: Docora) -> None:
    parts = (exit_codes(), options(), variables(), python(), documents(), metrics(docora))
    found = list(dict.fromkeys(line for part in parts for line in part))
    if os.environ.get("WRITE_INTERFACE"):
        text = "".join(f"{line}\n" for line in (f"version {__version__}", *found))
        RELEASED.write_text(text, encoding="utf-8")
    _, *released = RELEASED.read_text(encoding="utf-8").splitlines()
    assert [line for line in released if line not in set(found)] == []


STAMP = '{"printed_at": "2026-01-01T00:00:00.000Z", "command": "docora-ops cancel x --json", %s}'
DONE = '"data": {"message": "m", "operation_id": "x", "already_cancelled": false}'


@pytest.mark.slow
def test_each_command_with_json_has_a_schema_and_no_other_has(docora: Docora) -> None:
    for name, command in group().commands.items():
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
