"""Errors that are the fault of the host, and not of the link whose job met them."""

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from docora_ops.worker.tries import Tries
from tests.support.delivery_checks import link_row, repository_row
from tests.support.diagnoses import check, examine
from tests.support.docora import Docora
from tests.support.full_disk import with_own_mounts, worker_on_disk
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Files, Snapshots
from tests.support.worker_processes import await_waiting_worker, running

FULL = "No space left on device"
ONE_TRY = {"max_retry_attempts": 1}


def shown_reason(docora: Docora) -> Any:
    [worker] = docora.run("queue", "--json").data["workers"]
    return worker["no_job_reason"]


def assert_uncounted(snapshots: Snapshots, link: TestLink) -> None:
    assert link_row(snapshots, link) == ("pending_snapshot", 0, None)
    assert repository_row(snapshots, link.repository_id)["consecutive_failures"] == 0
    assert snapshots.docora.waiting() == [link.job_id]


@pytest.mark.slow
@with_own_mounts
def test_a_full_disk_counts_against_no_link_and_no_circuit_and_jobs_wait_until_there_is_room(
    snapshots: Snapshots, docora: Docora
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    with worker_on_disk(snapshots, "--name", "w", CIRCUIT_BREAKER_THRESHOLD="1") as (disk, worker):
        disk.fill()
        snapshots.queue(link, **ONE_TRY)
        worker.await_line("takes no job: ")
        assert "the host's fault, queued again at once; no failure is counted: " in worker.log
        assert_uncounted(snapshots, link)
        reason = shown_reason(docora)
        assert (reason["code"], reason["message"].partition("can't write")[2]) == (
            "host",
            f" to '{snapshots.repos}/.docora-ops': {FULL}",
        )
        status = docora.run("status")
        assert f"1, takes no job: {os.uname().nodename} can't write to " in status.stdout
        doctor = examine(docora)
        workers = check(doctor, "workers")
        assert (doctor.code, workers["state"]) == (6, "critical")
        assert FULL in workers["finding"]
        disk.free()
        worker.await_line("takes jobs again")
        eventually(lambda: docora.status(link) == "synced", "the end of the job")
        # A clone that is there already needs room as well, for git and for what the scan stores.
        disk.fill()
        upstream.commit({"a": "2\n"})
        snapshots.queue(link, **ONE_TRY)
        worker.await_line("takes no job: ", 2)
        assert_uncounted(snapshots, link)
        disk.free()
        eventually(lambda: docora.status(link) == "synced", "the end of the second job")
    assert link_row(snapshots, link) == ("synced", 0, None)
    assert ": None" not in worker.log


_LONG = f"{'long' * 50}/" * 15  # of a path that git stores once, and a scan once per file


@pytest.mark.slow
@with_own_mounts
@pytest.mark.parametrize(
    ("files", "git_failures"),
    [
        ({f"{number}": random.randbytes(6 << 20) for number in range(3)}, 1),
        ({f"{_LONG}{number}": "" for number in range(5000)}, 0),
    ],
    ids=["clone", "scan"],
)
def test_a_repository_that_is_too_large_for_the_disk_counts_as_the_links_own_fault(
    snapshots: Snapshots, files: Files, git_failures: int
) -> None:
    link, _ = snapshots.add_link(files)
    small = snapshots.add_upstream("octo/b")
    small.commit({"b": "2\n"})
    other = snapshots.link(snapshots.add_app("Beta"), snapshots.add_repository(small, "octo/b"))
    with worker_on_disk(snapshots, mebibytes=12) as (disk, worker):
        snapshots.queue(link, **ONE_TRY)
        snapshots.queue(other, **ONE_TRY)
        eventually(lambda: snapshots.docora.status(other) == "synced", "the job behind it")
        eventually(lambda: snapshots.docora.status(link) == "failed", "the end of its last try")
        status, count, error = link_row(snapshots, link)
        assert (status, count) == ("failed", 1)
        assert FULL in str(error)
        row = repository_row(snapshots, link.repository_id)
        assert row["consecutive_failures"] == git_failures
        assert disk.size_of_files() < 1 << 20
    assert "takes no job" not in worker.log
    assert "host's fault" not in worker.log


def test_the_host_is_blamed_for_one_job_twice_and_then_the_link(docora: Docora) -> None:
    giant, other = docora.add_link(), docora.add_link()
    for link in (giant, other):
        docora.enqueue(link.job_id)
    tries = [Tries(docora.job(giant)) for _ in range(4)]  # each in another worker
    assert [each.may_blame_host() for each in tries] == [True, True, False, False]
    assert Tries(docora.job(other)).may_blame_host() is True


@pytest.mark.slow
@with_own_mounts
def test_a_fault_of_the_host_long_after_others_counts_against_no_link(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "0\n"})
    with worker_on_disk(snapshots) as (disk, worker):
        for number in range(1, 4):
            disk.fill()
            upstream.commit({"a": f"{number}\n"})
            snapshots.queue(link, **ONE_TRY)
            worker.await_line("takes no job: ", number)
            assert_uncounted(snapshots, link)
            assert snapshots.work().code == 0  # on a host whose disk has room
            assert link_row(snapshots, link) == ("synced", 0, None)
            disk.free()
            worker.await_line("takes jobs again", number)


@contextmanager
def without_files(pid: int) -> Iterator[None]:
    """The process can open nothing more within the block."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # The standard streams are open. A plain user may not see what else is.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@pytest.mark.slow
def test_a_worker_that_can_not_even_begin_a_job_lets_it_wait_until_it_can(
    snapshots: Snapshots, docora: Docora
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    with running(snapshots) as worker:
        # The first time, the job can't be read; the second time, no process is started for it.
        for count in (1, 2):
            eventually(lambda: not worker.horses, "a worker without a work-horse")
            await_waiting_worker(docora)
            with without_files(worker.pid):
                snapshots.queue(link, **ONE_TRY)
                worker.await_line("takes no job: ", count)
                assert_uncounted(snapshots, link)
                assert shown_reason(docora)["code"] == "host"
            eventually(lambda: docora.status(link) == "synced", "the end of the job")
    assert worker.log.count("Too many open files") >= 2
    assert worker.log.count("takes jobs again") == 2
    assert "can't be read" not in worker.log
    assert link_row(snapshots, link) == ("synced", 0, None)


def test_a_worker_that_can_not_write_the_authorities_for_git_says_so_and_leaves_no_file(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    extra = tmp_path / "extra.pem"
    trustme.CA().cert_pem.write_to_path(str(extra))
    trusts = {"NODE_EXTRA_CA_CERTS": str(extra)}
    assert snapshots.work(**trusts).code == 0
    [written] = (snapshots.repos / ".docora-ops").glob("authorities-*.pem")
    written.unlink()
    (written / "in the way").mkdir(parents=True)
    result = snapshots.work(**trusts).ended(4)
    assert f"can't write the authorities for git to '{written.parent}': Is a dir" in result.stderr
    assert list(written.parent.iterdir()) == [written]
