"""What is in a file, and how it is sent: as text, as base64, in chunks."""

import base64
import random
from typing import Any
from uuid import UUID

from tests.support.delivery_checks import assert_in_sync, events, failure, sha
from tests.support.snapshots import Snapshots

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


def test_utf8_without_nul_that_is_no_pdf_is_sent_as_it_is_and_all_else_as_base64(
    snapshots: Snapshots,
) -> None:
    snapshots.settings_changes = {"binary_chunk_threshold_bytes": 10 * MIB}
    link, upstream = snapshots.add_synced({**TEXTS, **BINARIES})
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
    link, upstream = snapshots.add_synced({f"{size:07}": noise(size) for size in totals})
    assert_in_sync(snapshots, link, upstream)
    sent = bodies(snapshots)
    for size, total in totals.items():
        content = noise(size)
        chunks, sent = sent[: total or 1], sent[total or 1 :]
        assert "".join(chunk["content"] for chunk in chunks) == base64.b64encode(content).decode()
        about = {"path": f"{size:07}", "sha": sha(content), "size": size}
        for chunk in chunks:
            assert chunk | about | {"content_encoding": "base64"} == chunk
        if total is None:
            assert "chunk" not in chunks[0]
            continue
        assert list(chunks[0]) == ["path", "sha", "size", "content", "content_encoding", "chunk"]
        assert {len(chunk["content"]) for chunk in chunks[:-1]} <= {chunk_size}
        assert 0 < len(chunks[-1]["content"]) <= chunk_size
        chunk_id = chunks[0]["chunk"]["id"]
        assert str(UUID(chunk_id)) == chunk_id
        assert [chunk["chunk"] for chunk in chunks] == [
            {"id": chunk_id, "index": index, "total": total} for index in range(total)
        ]
    assert sent == []
    # A file is recorded when its last chunk was acknowledged, and only then.
    upstream.commit({"big": noise(3000)})
    snapshots.receiver.answer = lambda request: 200 if '"index":0' in request.body.decode() else 500
    assert failure(snapshots, link) == "HTTP 500 on created big"
    assert "big" not in snapshots.deliveries(link)
