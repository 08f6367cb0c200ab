"""A change of one link is cut off midway: the link is as it was or done, never without a job."""

import signal

import pytest

from tests.errors.checks import arguments, refuses, start_change
from tests.support.docora import Docora, Result, finish
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy
from tests.support.running_commands import PATIENT, await_goodbye

DELIVERIES = 7


class Change:
    """A resync of one failed link, which is cut off at its push or at its commit.

    It does all that a retry does, and deletes deliveries.
    """

    def __init__(self, docora: Docora) -> None:
        self.docora = docora
        self.link = docora.add_link()
        docora.add_deliveries(self.link, DELIVERIES)
        self.row = docora.row(self.link)

    def is_killed(self, marker: bytes, fault: Fault) -> None:
        assert self.meets(marker, fault, kill=True).code == -signal.SIGKILL

    def meets(self, marker: bytes, fault: Fault, *, kill: bool = False) -> Result:
        with (
            Proxy.before_redis(self.docora.redis_url) as redis,
            Proxy.before_postgres(self.docora.database_url) as postgres,
        ):
            process, moment = start_change(
                self.docora, "resync", self.link, (redis, postgres), marker, fault, PATIENT
            )
            if kill:
                process.kill()
            result = finish(process)
            await_goodbye(self.docora)
            assert marker is COMMIT or moment.requests == 1, "sent again"
        return result

    def has_done_nothing(self) -> None:
        assert self.docora.waiting() == []
        self._left_the_link()
        self._rerun_queues("queued")

    def has_only_pushed(self) -> None:
        """A job too many is one that a worker simply runs."""
        assert self.docora.waiting() == [self.link.job_id]
        self._left_the_link()
        self._rerun_queues("already_queued")

    def _left_the_link(self) -> None:
        self.docora.assert_sound()
        assert self.docora.row(self.link) == self.row
        assert self.docora.deliveries(self.link) == DELIVERIES

    def _rerun_queues(self, outcome: str) -> None:
        again = self.docora.run(*arguments("resync", self.link))
        assert again.code == 0, again
        assert again.data["outcome"] == outcome
        self._is_complete()

    def is_done(self) -> None:
        self._is_complete()
        self._rerun_queues("already_queued")

    def _is_complete(self) -> None:
        assert self.docora.waiting() == [self.link.job_id]
        self.docora.assert_sound()
        assert self.docora.was_reset(self.link)
        assert self.docora.deliveries(self.link) == 0


@pytest.fixture
def change(docora: Docora) -> Change:
    return Change(docora)


@pytest.mark.slow
def test_killed_before_its_push_it_has_done_nothing(change: Change) -> None:
    change.is_killed(PUSH, Fault.HOLD_REQUEST)
    change.has_done_nothing()


@pytest.mark.slow
def test_killed_after_its_push_it_leaves_only_a_job(change: Change) -> None:
    change.is_killed(PUSH, Fault.HOLD_REPLY)
    change.has_only_pushed()


def test_killed_before_its_commit_it_leaves_only_a_job(change: Change) -> None:
    change.is_killed(COMMIT, Fault.HOLD_REQUEST)
    change.has_only_pushed()


@pytest.mark.slow
def test_killed_after_its_commit_it_is_done(change: Change) -> None:
    change.is_killed(COMMIT, Fault.HOLD_REPLY)
    change.is_done()


def test_if_the_reply_to_its_push_is_lost_it_fails_and_leaves_only_a_job(change: Change) -> None:
    refuses(change.meets(PUSH, Fault.LOSE_REPLY), "redis", "broke the connection")
    change.has_only_pushed()


@pytest.mark.slow
def test_if_its_commit_is_lost_it_fails_and_leaves_only_a_job(change: Change) -> None:
    refuses(change.meets(COMMIT, Fault.LOSE_REQUEST), "postgres", "Postgres database")
    change.has_only_pushed()


def test_if_the_reply_to_its_commit_is_lost_it_fails_and_is_done(change: Change) -> None:
    refuses(change.meets(COMMIT, Fault.LOSE_REPLY), "postgres", "Postgres database")
    change.is_done()
