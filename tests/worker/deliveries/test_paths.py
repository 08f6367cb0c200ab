"""Names of files that are hard to write down."""

import random

import pytest

from tests.support.delivery_checks import events, link_row, sha
from tests.support.snapshots import Snapshots, Upstream


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


def test_of_names_that_are_the_same_once_replaced_the_first_is_sent(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
    link, upstream = snapshots.add_synced({b"\xe9": "first", b"\xff": "second", "\ufffd": "third"})
    assert snapshots.received().files == {"\ufffd": b"first"}
    assert snapshots.deliveries(link) == {"\ufffd": sha("first")}
    assert caplog.text.count("another file has the same name in UTF-8") == 2
    snapshots.run_job(link)
    assert len(events(snapshots)) == 1
    upstream.commit({b"\xe9": None})
    snapshots.run_job(link)
    assert events(snapshots)[1:] == [("update", "\ufffd")]
    assert snapshots.received().files == {"\ufffd": b"second"}
    assert link_row(snapshots, link) == ("synced", 0, None)


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
    snapshots.run_job(link)
    assert snapshots.received().files == dict.fromkeys(sent, b"1")
    assert snapshots.deliveries(link) == dict.fromkeys(sent, sha("1"))
    assert snapshots.snapshot_files(link.repository_id) == dict.fromkeys(
        sent | only_stored, sha("1")
    )
    assert caplog.text.count("not sent, its path is too long for Docora") == 6
    assert link_row(snapshots, link) == ("synced", 0, None)
    snapshots.run_job(link)
    assert len(events(snapshots)) == len(sent)


def test_paths_that_git_itself_would_not_make_are_not_sent(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
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
    snapshots.run_job(link)
    assert events(snapshots) == [("create", "ok")]
    assert caplog.text.count("its path is not safe") == 4
    assert link_row(snapshots, link) == ("synced", 0, None)
