"""Each JSON document says when it was printed and by which command: cron appends them to a file."""

import json
import re
from datetime import UTC, datetime, timedelta

from tests.support.docora import Docora

A_MOMENT = timedelta(seconds=1)


def test_a_document_has_its_moment_and_its_command(docora: Docora) -> None:
    docora.add_links(2)
    for words, code in (
        ("retry-all-failed --error 'HTTP 502' --dry-run --json", 0),
        ("resync no-such-app --all --yes --reason 'see https://kim:s3cr3t@a.example' --json", 3),
        ("no-such-command --json", 2),
    ):
        before = datetime.now(UTC)
        result = docora.run_in_shell(f"docora-ops {words}")
        assert result.code == code, result
        document = json.loads(result.stdout)
        assert document["command"] == f"docora-ops {words}".replace("kim:s3cr3t", "***")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["printed_at"])
        printed_at = datetime.fromisoformat(document["printed_at"])
        assert before - A_MOMENT < printed_at < datetime.now(UTC) + A_MOMENT
