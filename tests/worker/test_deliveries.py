"""Which files are sent, in which order, every byte of them, and what is recorded."""

import base64
import hmac
import random
import re
import shutil
import subprocess
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from rq.job import JobStatus

from docora_ops.worker import resources
from tests.support.receiver import Request
from tests.support.snapshots import AUTH_KEY, Files, Snapshots, Upstream
from tests.worker.jobs import (
    add_synced,
    assert_in_sync,
    events,
    failure,
    link_row,
    run_job,
    sha,
    snapshot_row,
)
from tests.worker.raw_app import Talk, raw_app


def test_deletions_are_sent_before_creations_before_updates(snapshots: Snapshots) -> None:
    before: Files = {"a": "1", "file": "1", "folder/c": "1", "old": "1", "same": "1", "z": "1"}
    link, upstream = add_synced(snapshots, before)
    snapshots.received().requests.clear()
    upstream.git("rm", "-r", "--quiet", ".")
    upstream.commit({"a": "2", "file/x": "1", "folder": "1", "same": "1", "sub/new": "1", "z": "2"})
    run_job(snapshots, link)
    assert ", ".join(f"{event} {path}" for event, path in events(snapshots)) == (
        "delete file, delete folder/c, delete old,"
        " create file/x, create folder, create sub/new, update a, update z"
    )
    assert_in_sync(snapshots, link, upstream)
    upstream.git("rm", "-r", "--quiet", ".")
    upstream.commit()
    run_job(snapshots, link)
    assert_in_sync(snapshots, link, upstream)
    assert snapshots.received().requests[-1].json["commit_sha"] == upstream.head


@pytest.mark.parametrize("event", ["create", "delete"])
def test_a_link_deleted_midway_ends_its_job_quietly(snapshots: Snapshots, event: str) -> None:
    link, upstream = snapshots.add_link({f"{i}": "x" for i in range(9)})
    if event == "delete":
        run_job(snapshots, link)
        upstream.commit({f"{i}": None for i in range(9)})
    stored = snapshot_row(snapshots, link.repository_id)
    sent = len(events(snapshots))
    snapshots.queue(link)

    def answer(request: Request) -> int:
        if request.path == "2":
            snapshots.docora.connection.execute("DELETE FROM app_repositories")
            if event == "create":
                snapshots.docora.connection.execute("DELETE FROM apps")
        return 200

    snapshots.receiver.answer = answer
    snapshots.work().ended(0)
    new = events(snapshots)[sent:]
    assert new[:3] == [(event, "0"), (event, "1"), (event, "2")]
    assert len(new) <= 4  # one may be on its way while Postgres tells
    assert snapshots.docora.job(link).get_status() is JobStatus.FINISHED
    assert event == "delete" or "2" not in snapshots.deliveries(link)
    now = snapshot_row(snapshots, link.repository_id)
    assert (now and now["id"]) == (stored and stored["id"])


def test_a_snapshot_that_can_not_be_stored_leaves_the_one_before(snapshots: Snapshots) -> None:
    link, upstream = add_synced(snapshots, {"a": "1\n", "b": "2\n"})
    stored = snapshots.docora.dump()[0]["repository_snapshots"]
    files = snapshots.snapshot_files(link.repository_id)
    upstream.commit({"a": "3\n", "c": "4\n"})
    snapshots.docora.add_trigger(
        "RAISE 'the disk is full'", when="NEW.path = 'c'", event="BEFORE INSERT ON snapshot_files"
    )
    assert "the disk is full" in failure(snapshots, link)
    assert snapshots.docora.dump()[0]["repository_snapshots"] == stored
    assert snapshots.snapshot_files(link.repository_id) == files


def test_an_app_has_30_s_to_answer(snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resources.DELIVERY_TIMEOUT == 30
    monkeypatch.setattr(resources, "DELIVERY_TIMEOUT", 0.2)
    link, _ = snapshots.add_link({"a": "1"})
    with raw_app(snapshots.receiver, Talk.wait_for_hangup) as app:
        snapshots.set_base_url(app.base_url)
        error = failure(snapshots, link)
    assert error == f"no answer from {app.host} within 0.2 s on created a"


def test_an_app_that_was_down_gets_the_deletion_and_every_file_again(snapshots: Snapshots) -> None:
    snapshots.settings_changes |= {"binary_chunk_threshold_bytes": 20}
    link, upstream = add_synced(snapshots, {"big": b"\0" * 30, "gone": "1", "kept": "1"})
    upstream.commit({"gone": None, "new": "2"})
    snapshots.receiver.answer = lambda _: 503
    assert failure(snapshots, link) == "HTTP 503 on deleted gone"
    snapshots.receiver.answer = lambda _: 200
    snapshots.received().requests.clear()
    snapshots.docora.connection.execute("UPDATE app_delivered_files SET file_sha = repeat('0', 64)")
    run_job(snapshots, link)
    sent = [("delete", "gone"), ("create", "new"), ("update", "big"), ("update", "kept")]
    assert events(snapshots) == sent
    deletion, creation, *updates = (request.json for request in snapshots.received().requests)
    assert deletion["file"] == {"path": "gone", "sha": "0" * 64}
    assert "previous_sha" not in deletion | creation
    assert [update["previous_sha"] for update in updates] == ["0" * 64] * 2
    assert_in_sync(snapshots, link, upstream)


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


@pytest.mark.slow
def test_odd_names_and_texts_arrive_as_javascript_prints_them(snapshots: Snapshots) -> None:
    chunks = {"binary_chunk_threshold_bytes": 2000, "binary_chunk_size_bytes": 4099}
    snapshots.settings_changes |= chunks
    link, upstream = add_synced(
        snapshots,
        {
            **{name: f"{name}\n" for name in ODD_NAMES},
            **{f"text {i}": text for i, text in enumerate(ODD_TEXTS)},
            b"\xff": b"\xff",
            "large": "\u2028\0" * 3000,
            "random": "".join(random.Random(7).choices(EVERYTHING, k=100_000)),
            "huge": '\u20ac"\n' * 300_000,
        },
    )
    assert_in_sync(snapshots, link, upstream)
    upstream.commit({"huge": None, **dict.fromkeys(ODD_NAMES, "changed")})
    run_job(snapshots, link)
    assert_in_sync(snapshots, link, upstream)
    upstream.commit(dict.fromkeys(ODD_NAMES))
    run_job(snapshots, link)
    assert_in_sync(snapshots, link, upstream)
    # The receiver has compared each body with what Python makes of it.
    if shutil.which("node"):
        bodies = [request.body for request in snapshots.received().requests]
        assert in_node(bodies) == bodies


def test_create_update_and_delete_are_these_bytes_and_signed(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"src/ä.py": "x = '1'\n\t\"\\\u2028", "b.bin": b"\0\xff"})
    first, moment = upstream.head, datetime.now(UTC)
    run_job(snapshots, link)
    second = upstream.commit({"src/ä.py": "y", "b.bin": None})
    run_job(snapshots, link)
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


MIB = 1 << 20
"""What is read at once, and up to what size a text is made in memory."""
SMILE = "\U0001f600".encode()


def noise(size: int) -> bytes:
    """Binary: its first byte is a NUL."""
    return b"\0" + random.Random(size).randbytes(size - 1) if size else b""


def bodies(snapshots: Snapshots) -> list[dict[str, Any]]:
    return [request.json["file"] for request in snapshots.received().requests]


Contents = dict[str | bytes, bytes]
TEXTS: Contents = {
    "empty": b"",
    "all of ASCII": bytes(range(1, 128)),
    "byte order mark": b"\xef\xbb\xbfhello",
    "noncharacters": "\ufffe\uffff\U0010ffff\ud7ff\ue000\ufffd".encode(),
    "line ends": b"a\r\nb\rc\n\r\n",
    "no PDF yet": b"%PDF",
    "PDF further on": b" %PDF-1.4\n",
    **{f"{n} before a piece": b"x" * (MIB - n) + SMILE + b"tail" for n in range(4)},
    "2 pieces": b"y" * (2 * MIB - 1) + "\u00e9".encode() + b"z" * MIB + SMILE * 3,
    "whole": b"q" * MIB,
    "one more": b"q" * (MIB + 1),
    "escapes": b'\n"\x01\\' * (MIB // 3),
}
BINARIES: Contents = {
    "only NUL": b"\0",
    "latin-1": b"caf\xe9",
    "cut off at the end": b"text " + SMILE[:3],
    "surrogate": b"\xed\xa0\xbd\xed\xb8\x80",
    "too long form": b"\xc0\xafetc",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "utf-16": "hello".encode("utf-16"),
    "PDF of text alone": b"%PDF-1.4\n1 0 obj\n",
    "PDF at its shortest": b"%PDF-",
    "broken between pieces": b"x" * (MIB - 1) + SMILE[:1] + b"tail",
    "broken after a piece": b"x" * (MIB - 1) + SMILE[:3] + b"x",
    "cut at a piece": b"x" * (MIB - 2) + SMILE[:2],
    "cut after a piece": b"x" * (MIB - 2) + SMILE[:3],
    "late NUL": b"x" * MIB + b"\0",
}


@pytest.mark.slow
def test_utf8_without_nul_is_sent_as_it_is_and_all_else_as_base64(snapshots: Snapshots) -> None:
    snapshots.settings_changes = {"binary_chunk_threshold_bytes": 10 * MIB}
    link, upstream = add_synced(snapshots, {**TEXTS, **BINARIES})
    assert_in_sync(snapshots, link, upstream)
    sent = {file["path"]: file for file in bodies(snapshots)}
    assert len(events(snapshots)) == len(sent) == len(TEXTS) + len(BINARIES)
    for name, content in TEXTS.items():
        assert list(sent[name]) == ["path", "sha", "size", "content"]
        assert sent[name]["content"].encode() == content
    for name, content in BINARIES.items():
        assert list(sent[name]) == ["path", "sha", "size", "content", "content_encoding"]
        assert sent[name]["content"] == base64.b64encode(content).decode()
        assert sent[name]["content_encoding"] == "base64"
    assert {name: file["size"] for name, file in sent.items()} == {
        name: len(content) for name, content in (TEXTS | BINARIES).items()
    }


def test_a_large_binary_file_goes_in_pieces_of_its_base64_text(snapshots: Snapshots) -> None:
    chunk_size = 1027
    totals = {1: None, 2000: None, 2001: 3, 2002: 3, 3081: 4, 3082: 5}
    snapshots.settings_changes = {
        "binary_chunk_threshold_bytes": 2000,
        "binary_chunk_size_bytes": chunk_size,
    }
    link, upstream = add_synced(snapshots, {f"{size:07}": noise(size) for size in totals})
    assert_in_sync(snapshots, link, upstream)
    sent = bodies(snapshots)
    for size, total in totals.items():
        content, count = noise(size), total or 1
        chunks, sent = sent[:count], sent[count:]
        assert "".join(chunk["content"] for chunk in chunks) == base64.b64encode(content).decode()
        keys = ["path", "sha", "size", "content", "content_encoding", *(["chunk"] if total else [])]
        for chunk in chunks:
            assert list(chunk) == keys
            assert chunk | {"path": f"{size:07}", "sha": sha(content), "size": size} == chunk
        if total is not None:
            assert {len(chunk["content"]) for chunk in chunks[:-1]} <= {chunk_size}
            assert 0 < len(chunks[-1]["content"]) <= chunk_size
            id_ = str(UUID(chunks[0]["chunk"]["id"]))
            numbered = [{"id": id_, "index": index, "total": total} for index in range(total)]
            assert [chunk["chunk"] for chunk in chunks] == numbered
    assert sent == []
    # A file is recorded when its last chunk was acknowledged, and only then.
    upstream.commit({"big": noise(3000)})
    snapshots.receiver.answer = lambda request: 200 if '"index":0' in request.body.decode() else 500
    assert failure(snapshots, link) == "HTTP 500 on created big"
    assert "big" not in snapshots.deliveries(link)


def commit_paths(upstream: Upstream, files: dict[str, bytes]) -> None:
    """Commit files that no file system would take."""
    entries = []
    for path, content in files.items():
        object_id = upstream.git_of_bytes("hash-object", "-w", "--stdin", stdin=content).strip()
        entries.append(b"100644 %b\t%b\0" % (object_id, path.encode()))
    upstream.git_of_bytes("update-index", "-z", "--index-info", stdin=b"".join(entries))
    upstream.git("commit", "--quiet", "--message=paths")


def long_path(length: int, letter: str = "x") -> str:
    """A path of so many characters."""
    return "/".join(letter * 99 for _ in range(length // 100 + 1))[: length - 1] + "!"


def test_paths_that_docora_can_not_record_are_left_out_and_hold_nothing_else_back(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
    choose = random.Random(1).choices
    han = [chr(code) for code in range(0x4E00, 0x9FA0)]
    dense = ["/".join("".join(choose(han, k=60)) for _ in range(n)) + "/z" for n in (16, 20)]
    sent = {"a", "z", long_path(1024), long_path(1024, "\u00e9")}
    only_stored = {long_path(1025), long_path(1025, "\u00e9"), long_path(2048)}
    link, upstream = snapshots.add_link({})
    commit_paths(upstream, dict.fromkeys((*sent, *only_stored, long_path(2049), *dense), b"1"))
    run_job(snapshots, link)
    assert snapshots.received().files == dict.fromkeys(sent, b"1")
    assert snapshots.deliveries(link) == dict.fromkeys(sent, sha("1"))
    assert snapshots.snapshot_files(link.repository_id) == dict.fromkeys(
        sent | only_stored, sha("1")
    )
    assert caplog.text.count("not sent, its path is too long for Docora") == 6
    assert link_row(snapshots, link) == ("synced", 0, None)
    run_job(snapshots, link)
    assert len(events(snapshots)) == len(sent)


def test_unsafe_paths_are_not_sent(snapshots: Snapshots, caplog: pytest.LogCaptureFixture) -> None:
    link, upstream = snapshots.add_link({"ok": "1"})

    def make(what: str, content: bytes) -> str:
        command = ("hash-object", "-w", "-t", what, "--literally", "--stdin")
        return upstream.git_of_bytes(*command, stdin=content).decode().strip()

    def tree(*entries: tuple[str, str, str]) -> str:
        lines = (f"{mode} {name}\0".encode() + bytes.fromhex(id_) for mode, name, id_ in entries)
        return make("tree", b"".join(lines))

    evil = ("100644", "x", make("blob", b"evil"))
    folders = {name: tree(evil) for name in ("..", ".", ".GIT")}
    folders["a"] = tree(("40000", ".git", tree(evil)))
    root = [("40000", name, id_) for name, id_ in folders.items()]
    commit = upstream.git("commit-tree", tree(*root, ("100644", "ok", evil[2])), "-m", "crafted")
    upstream.git("update-ref", "refs/heads/main", commit.strip())
    run_job(snapshots, link)
    assert events(snapshots) == [("create", "ok")]
    assert caplog.text.count("its path is not safe") == 4
    assert link_row(snapshots, link) == ("synced", 0, None)


def test_of_names_that_are_the_same_once_replaced_the_last_is_sent(snapshots: Snapshots) -> None:
    link, upstream = add_synced(snapshots, {b"\xe9": "first", "\ufffd": "second", b"\xff": "third"})
    assert snapshots.received().files == {"\ufffd": b"third"}
    assert snapshots.deliveries(link) == {"\ufffd": sha("third")}
    run_job(snapshots, link)
    assert len(events(snapshots)) == 1
    upstream.commit({b"\xff": None})
    run_job(snapshots, link)
    assert events(snapshots)[1:] == [("update", "\ufffd")]
    assert snapshots.received().files == {"\ufffd": b"second"}
    assert link_row(snapshots, link) == ("synced", 0, None)
