"""The documents of `--json` have exactly the fields that the topic `json` shows."""

import json
import re
from typing import Any

from tests.cli.test_cli import HELP
from tests.support.docora import Docora
from tests.support.snapshots import FILES, Snapshots

TOPIC = (HELP / "json.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```json\n(.*?)^```", TOPIC, re.MULTILINE | re.DOTALL)
ROWS = dict(re.findall(r"^\| `([a-z]+)` \| (.+) \|$", TOPIC, re.MULTILINE))


def shape(value: Any) -> Any:
    """The names of the fields. Those of `states` and the like are values."""
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, dict):
        return {
            name: "names" if name in {"states", "by_status"} else shape(item)
            for name, item in value.items()
        }
    return "value"


def test_each_example_has_the_fields_that_the_command_prints(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_link(FILES)
    snapshots.receiver.answer = lambda _: 500
    one, bulk, page, error = (json.loads(block) for block in BLOCKS)
    [nothing] = re.findall(r'`(\{"data": \{"message": "Nothing.*?)`', TOPIC)
    listed = docora.run("failed", "--json").ended(0)
    retried = docora.run("retry", *link.ids, "--json").ended(0)
    refused = docora.run("retry", *link.ids, "--json").ended(4, "not_failed")
    docora.set_link(link, status="failed")
    snapshots.start_worker(MAX_RETRY_ATTEMPTS="1")
    waited = docora.run("retry-all-failed", "--yes", "--wait", "--json").ended(7)
    docora.set_link(link, status="synced")
    idle = docora.run("retry-all-failed", "--json").ended(0)
    for example, result in (
        (one, retried),
        (bulk, waited),
        (page, listed),
        (error, refused),
        (json.loads(nothing), idle),
    ):
        assert shape(result.json) == shape(example)
    shown = docora.run("operations", waited.data["operation_id"], "--json").ended(0).data
    [newest] = docora.run("operations", "--limit", "1", "--json").ended(0).data
    assert set(shown) == set(newest) == set(bulk["data"]) - {"message", "dry_run", "wait"}


def test_the_table_names_the_fields_of_all_other_documents(docora: Docora) -> None:
    link = docora.add_link("synced")
    for command, arguments in {
        "status": (),
        "show": link.ids,
        "doctor": (),
        "verify": (),
        "schedule": (),
    }.items():
        result = docora.run(command, *arguments, "--json")
        document = result.data[0] if command == "doctor" else result.data
        named = re.findall("`([a-z_]+)`", re.sub(r"\(.*?\)|: links.*", "", ROWS[command]))
        assert list(document) == named


def test_a_row_of_a_group_has_the_fields_that_the_topic_names(docora: Docora) -> None:
    docora.add_link()
    [paragraph] = re.findall(r"^With `--group-by`.*?\n\n", TOPIC, re.MULTILINE | re.DOTALL)
    _, *named = re.findall("`([a-z_-]+)`", paragraph)
    for group in ("error", "app"):
        [row] = docora.run("failed", "--group-by", group, "--json").data
        own = {"error_message", "app_names"}
        others = {"key", "name", "base_url", "email"}
        assert set(row) == set(named) - (others if group == "error" else own)
