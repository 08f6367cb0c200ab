"""The documents of the topic `json`: a name means one thing in all of them."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator

from tests.help import documents

_DOCUMENT = re.compile(r"^\{[^\n]*\}$|^\{.*?^\}$", re.MULTILINE | re.DOTALL)


def test_a_name_has_one_type_in_all_documents() -> None:
    types = defaultdict(set)
    for text in _DOCUMENT.findall(documents.topic("json")):
        for name, value in names(json.loads(text)):
            if value is not None:
                types[name].add("number" if type(value) in {int, float} else type(value).__name__)
    del types["data"]  # of a list or of anything else, as in Docora's own API
    assert len(types) > 100
    assert {name: found for name, found in types.items() if len(found) > 1} == {}


def names(value: object) -> Iterator[tuple[str, object]]:
    match value:
        case dict():
            for name, inner in value.items():
                yield name, inner
                if not name.endswith(("_by_state", "_by_status")):  # whose names are values
                    yield from names(inner)
        case list():
            for inner in value:
                yield from names(inner)
