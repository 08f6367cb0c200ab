"""A change of one link is cut off midway: the link is as it was or done, never without a job."""

import signal
from collections.abc import Callable

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

    def meets(self, marker: bytes, fault: Fault, *, kill: bool) -> Result:
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
        assert self.docora.run(*arguments("resync", self.link)).ended(0).data["outcome"] == outcome
        self._is_complete()

    def is_done(self) -> None:
        self._is_complete()
        self._rerun_queues("already_queued")

    def _is_complete(self) -> None:
        assert self.docora.waiting() == [self.link.job_id]
        self.docora.assert_sound()
        assert self.docora.was_reset(self.link)
        assert self.docora.deliveries(self.link) == 0


KILLED = None
REDIS, POSTGRES = ("redis", "broke the connection"), ("postgres", "Postgres database")
CUTS: dict[str, tuple[bytes, Fault, tuple[str, str] | None, Callable[[Change], None]]] = {
    "killed before its push": (PUSH, Fault.HOLD_REQUEST, KILLED, Change.has_done_nothing),
    "killed after its push": (PUSH, Fault.HOLD_REPLY, KILLED, Change.has_only_pushed),
    "killed before its commit": (COMMIT, Fault.HOLD_REQUEST, KILLED, Change.has_only_pushed),
    "killed after its commit": (COMMIT, Fault.HOLD_REPLY, KILLED, Change.is_done),
    "reply to its push lost": (PUSH, Fault.LOSE_REPLY, REDIS, Change.has_only_pushed),
    "its commit lost": (COMMIT, Fault.LOSE_REQUEST, POSTGRES, Change.has_only_pushed),
    "reply to its commit lost": (COMMIT, Fault.LOSE_REPLY, POSTGRES, Change.is_done),
}
"""Per cut: where it comes, how, the error (none for a command that is killed), what was done."""
IN_SHORT = {"killed before its commit", "reply to its push lost", "reply to its commit lost"}
"""The cuts that `make test` looks at."""


@pytest.mark.parametrize(
    "cut",
    [cut if cut in IN_SHORT else pytest.param(cut, marks=pytest.mark.slow) for cut in CUTS],
)
def test_a_change_of_one_link_that_is_cut_off_is_done_or_leaves_only_a_job(
    docora: Docora, cut: str
) -> None:
    marker, fault, error, has_ended_well = CUTS[cut]
    change = Change(docora)
    result = change.meets(marker, fault, kill=error is KILLED)
    if error is KILLED:
        assert result.code == -signal.SIGKILL
    else:
        refuses(result, *error)
    has_ended_well(change)
