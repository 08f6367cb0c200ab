"""Every byte of what is sent, and that JavaScript would print the same."""

import hmac
import random
import re
import shutil
import subprocess
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tests.support.delivery_checks import assert_in_sync, sha
from tests.support.snapshots import AUTH_KEY, Snapshots

ODD_NAMES = (
    " ",
    " leading and trailing ",
    '"quoted"',
    "back\\slash",
    "\\N",
    "new\nline",
    "return\r, tab\t, bell\a, escape\x1b[31m, delete\x7f, unit\x1f",
    "c1\x85control",
    "line\u2028and paragraph\u2029separators",
    "right\u202eto left",
    "byte order\ufeffmark, zero\u200bwidth",
    "e\u0301 is not \u00e9",
    "\U0001f600 and \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\ue000 private, \uffff none",
    "%s %(name)s {0} $1",
    "--help",
    ":(glob)**",
    "</script>",
)
TIMESTAMP = rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"'
ODD_TEXTS = (
    *ODD_NAMES,
    "",
    "".join(map(chr, range(0x300))),
    "".join(map(chr, range(0x2000, 0x2100))),
    "\ufeff\ufffd\ufffe\uffff\U00010000\U0010ffff",
    "/".join(["\u6f22\U00020000x" * 80] * 50),
    '\\u0041 \\n \\\\ \\" \\',
    "</script><!-- & < > ' `${x}`",
    "__proto__",
)
EVERYTHING = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x110000))]
NODE = """
require('node:readline').createInterface({input: process.stdin}).on('line', line => {
  const body = JSON.stringify(JSON.parse(Buffer.from(line, 'base64').toString()))
  process.stdout.write(Buffer.from(body).toString('base64') + '\\n')
})
"""


def in_node(bodies: Sequence[bytes]) -> list[bytes]:
    """What JavaScript makes of each body."""
    answer = subprocess.run(
        ["node", "--eval", NODE],
        input=b"".join(b64encode(body) + b"\n" for body in bodies),
        check=True,
        capture_output=True,
        timeout=60,
    )
    return [b64decode(line) for line in answer.stdout.splitlines()]


def test_odd_names_and_texts_arrive_as_they_are_and_as_javascript_prints_them(
    snapshots: Snapshots,
) -> None:
    chunks = {"binary_chunk_threshold_bytes": 2000, "binary_chunk_size_bytes": 4099}
    snapshots.settings_changes |= chunks
    link, upstream = snapshots.add_synced(
        {
            **{name: f"{name}\n" for name in ODD_NAMES},
            **{f"text {i}": text for i, text in enumerate(ODD_TEXTS)},
            b"\xff": b"\xff",
            "large": "\u2028\0" * 3000,
            "random": "".join(random.Random(7).choices(EVERYTHING, k=100_000)),
            "huge": '\u20ac"\n' * 300_000,
        }
    )
    assert_in_sync(snapshots, link, upstream)
    upstream.commit({"huge": None, **dict.fromkeys(ODD_NAMES, "changed")})
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)
    upstream.commit(dict.fromkeys(ODD_NAMES))
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)
    # The receiver has compared each body with what Python makes of it.
    if shutil.which("node"):
        bodies = [request.body for request in snapshots.received().requests]
        assert in_node(bodies) == bodies


def test_create_update_and_delete_are_these_bytes_and_signed(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"src/ä.py": "x = '1'\n\t\"\\\u2028", "b.bin": b"\0\xff"})
    first, moment = upstream.head, datetime.now(UTC)
    snapshots.run_job(link)
    second = upstream.commit({"src/ä.py": "y", "b.bin": None})
    snapshots.run_job(link)
    repository = (
        f'{{"repository":{{"repository_id":"{link.repository_id}","github_url":"{upstream.url}",'
        '"owner":"octo","name":"api"},"file":{"path":"'
    )
    text, binary = sha("x = '1'\n\t\"\\\u2028"), sha(b"\0\xff")
    expected = [
        f'{repository}b.bin","sha":"{binary}","size":2,"content":"AP8=",'
        f'"content_encoding":"base64"}},"commit_sha":"{first}","timestamp":T}}',
        f'{repository}src/ä.py","sha":"{text}","size":14,'
        f'"content":"x = \'1\'\\n\\t\\"\\\\\u2028"}},"commit_sha":"{first}","timestamp":T}}',
        f'{repository}b.bin","sha":"{binary}"}},"commit_sha":"{second}","timestamp":T}}',
        f'{repository}src/ä.py","sha":"{sha("y")}","size":1,"content":"y"}},'
        f'"previous_sha":"{text}","commit_sha":"{second}","timestamp":T}}',
    ]
    requests = snapshots.received().requests
    assert [re.sub(TIMESTAMP, b"T", request.body).decode() for request in requests] == expected
    for request in requests:
        sent = datetime.fromisoformat(request.json["timestamp"])
        # Redis's time is known to half of what its answer took.
        assert abs(sent - datetime.now(UTC)) < timedelta(seconds=10)
        headers = request.headers
        timestamp = headers["X-Docora-Timestamp"]
        assert int(moment.timestamp()) <= int(timestamp) <= int(time.time())
        assert headers["X-Docora-App-Id"] == link.app_id
        assert headers["Content-Type"] == "application/json"
        assert headers["Content-Length"] == str(len(request.body))
        signed = timestamp.encode() + b"." + request.body
        digest = hmac.new(AUTH_KEY.encode(), signed, "sha256").hexdigest()
        assert headers["X-Docora-Signature"] == f"sha256={digest}"
        assert headers["User-Agent"].startswith("docora-ops/")
