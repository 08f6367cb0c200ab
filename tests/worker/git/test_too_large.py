"""Repositories and answers without an end: a job spends little time and memory on them."""

import resource
from datetime import timedelta
from signal import Signals

import pytest

from docora_ops.worker import clone as scan
from tests.support.delivery_checks import (
    assert_in_sync,
    events,
    failure,
    git_failures,
    link_row,
    repository_row,
)
from tests.support.git_over_http import GitHandler, GitSite
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots, Upstream
from tests.support.worker_processes import children_of, held_worker, parent_of, running
from tests.worker.deliveries.test_bodies import commit_paths, long_path
from tests.worker.git.test_http import git_processes

BOMB = "the commit {} has more than {} paths, or one of more than 4,096 bytes"


def commit_bomb(upstream: Upstream, levels: int, width: int = 10) -> str:
    """Commits trees of trees: width ** levels files, and the folders, of a few bytes on disk."""
    blob = upstream.git_of_bytes("hash-object", "-w", "--stdin", stdin=b"x").decode().strip()
    entry = f"100644 blob {blob}"
    for _ in range(levels):
        tree = "".join(f"{entry}\t{number}\n" for number in range(width)).encode()
        entry = f"040000 tree {upstream.git_of_bytes('mktree', stdin=tree).decode().strip()}"
    commit = upstream.git("commit-tree", entry.split()[2], "-m", "bomb").strip()
    upstream.git("update-ref", "refs/heads/main", commit)
    return commit


def test_a_bomb_of_trees_fails_the_link_and_opens_the_circuit(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_MOST_PATHS", 2000)
    link, upstream = snapshots.add_link({"a": "1\n"})
    before = upstream.head
    snapshots.run_job(link)
    bomb = commit_bomb(upstream, levels=7)
    for number in range(1, 6):
        assert repository_row(snapshots, link.repository_id)["open_for"] is None
        assert events(snapshots) == [("create", "a")]
        assert failure(snapshots, link) == BOMB.format(bomb, "2,000")
        assert git_failures(snapshots, link) == number
    open_for = repository_row(snapshots, link.repository_id)["open_for"]
    assert timedelta(minutes=29) < open_for <= timedelta(minutes=30)
    assert events(snapshots) == [("create", "a"), ("sync_failed", "")]
    upstream.git("update-ref", "refs/heads/main", before)
    snapshots.run_job(link)
    assert git_failures(snapshots, link) == 0
    assert repository_row(snapshots, link.repository_id)["open_for"] is None
    assert_in_sync(snapshots, link, upstream)


def test_a_path_that_no_system_can_check_out_is_refused(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({})
    commit_paths(upstream, {long_path(4096): b"1"})
    snapshots.run_job(link)
    assert link_row(snapshots, link) == ("synced", 0, None)
    commit_paths(upstream, {long_path(4097): b"1"})
    assert failure(snapshots, link) == BOMB.format(upstream.head, "1,000,000")
    assert git_failures(snapshots, link) == 1


def limit_of(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_DATA)[0]


def work_with_little_memory(snapshots: Snapshots, link: TestLink) -> None:
    """Runs the link's job, which fails, in a worker that has 100 MiB."""
    with running(snapshots) as worker:
        worker.await_ready()
        limits = (100 << 20, resource.RLIM_INFINITY)  # it can't give its jobs more
        resource.prlimit(worker.pid, resource.RLIMIT_DATA, limits)
        snapshots.queue(link, max_retry_attempts=1)
        worker.await_line("failed after")
        worker.signal(Signals.SIGTERM)
        assert worker.end() == 0


def test_the_memory_of_a_job_is_limited_and_that_of_its_worker_is_not(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"b": "1\n"})
    with held_worker(snapshots, BINARY_CHUNK_SIZE_BYTES=str(1 << 20)) as (_, worker):
        horse = worker.horse()
        [git] = children_of(horse)
        assert limit_of(git) == limit_of(horse) == (2 << 30) + (4 << 20)
        assert limit_of(parent_of(horse)) == resource.RLIM_INFINITY
    assert link_row(snapshots, link)[0] == "scanning"


def test_a_job_that_runs_out_of_memory_fails_its_link_and_counts_for_the_circuit(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({})
    commit_bomb(upstream, levels=3, width=100)
    work_with_little_memory(snapshots, link)
    error = "the job ran out of memory on this repository"
    assert link_row(snapshots, link) == ("failed", 1, error)
    assert git_failures(snapshots, link) == 1


def packet(line: bytes) -> bytes:
    return b"%04x%b" % (len(line) + 4, line)


REFS = b"".join(packet(b"%040x refs/heads/b%d\n" % (n + 1, n)) for n in range(10_000))
HEAD = packet(b"# service=git-upload-pack\n") + b"0000" + packet(b"%040x HEAD\0agent=test\n" % 1)
# Which request is answered, with what, how it begins, and how it goes on for ever.
ENDLESS = {
    "refs": ("GET", "advertisement", HEAD, REFS),
    "messages": ("fetch", "result", packet(b"packfile\n"), packet(b"\2" + b"x\n" * 30_000) * 9),
}


@pytest.mark.parametrize(("request_", "what", "first", "more"), ENDLESS.values(), ids=ENDLESS)
def test_an_endless_answer_fails_the_link_and_counts_for_the_circuit(
    snapshots: Snapshots,
    site: GitSite,
    link: TestLink,
    request_: str,
    what: str,
    first: bytes,
    more: bytes,
) -> None:
    def answer(handler: GitHandler) -> bool:
        is_fetch = b"command=fetch" in handler.content
        if request_ != ("fetch" if is_fetch else handler.command):
            return True
        try:
            content_type = {"Content-Type": f"application/x-git-upload-pack-{what}"}
            handler.reply(200, content_type, first)
            while True:
                handler.wfile.write(more)
        except OSError:  # git is gone
            return False

    site.intercept = answer
    work_with_little_memory(snapshots, link)
    status, _, error = link_row(snapshots, link)
    assert status == "failed"
    assert "ut of memory" in str(error)
    assert git_failures(snapshots, link) == 1
    eventually(lambda: not git_processes(site), "the end of all git processes")
