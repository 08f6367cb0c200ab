"""Every JSON document that a test sees fits the schema of its command."""

import json
import shlex
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from docora_ops.cli.schemas import schema_of


def check_document(text: str) -> None:
    document = json.loads(text)
    words = shlex.split(document["command"])
    # Before the command may stand an env file; a command that is not known has an error only.
    command = next((word for word in words[1:] if schema_of_words(word)), "status")
    validator = schema_of_words(command)
    assert validator is not None
    problem = next(validator.iter_errors(document), None)
    assert problem is None, f"{document['command']}: {problem}"


@cache
def schema_of_words(command: str) -> Draft202012Validator | None:
    schema = schema_of(command)
    return Draft202012Validator(_closed(schema)) if schema else None


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    for definition in (schema, *schema.get("$defs", {}).values()):
        if "properties" in definition:
            definition["additionalProperties"] = False
            if definition is not schema:
                definition["required"] = list(definition["properties"])
    return schema
