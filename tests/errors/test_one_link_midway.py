"""A change of one link is cut off midway: the link is as it was or done, never without a job."""

import signal

import pytest

from tests.errors.checks import ONE, arguments, refuses, start_change
from tests.support.docora import Docora, Result, finish
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy
from tests.support.rows import TestLink
from tests.support.running_commands import PATIENT, await_goodbye, terminate_sessions


@pytest.mark.parametrize(
    ("command", "event", "marker", "fault", "has_job", "was_reset"),
    [
        pytest.param(command, *rest, id=name, marks=[pytest.mark.slow] * (command != common))
        for command in ONE
        for name, common, *rest in (
            ("killed before the push", "", "killed", PUSH, Fault.HOLD_REQUEST, False, False),
            ("killed after the push", "", "killed", PUSH, Fault.HOLD_REPLY, True, False),
            ("killed before commit", "retry", "killed", COMMIT, Fault.HOLD_REQUEST, True, False),
            ("killed after the commit", "", "killed", COMMIT, Fault.HOLD_REPLY, True, True),
            ("reply to the push lost", "retry", "lost", PUSH, Fault.LOSE_REPLY, True, False),
            ("commit lost", "", "lost", COMMIT, Fault.LOSE_REQUEST, True, False),
            ("commit unknown", "resync", "lost", COMMIT, Fault.LOSE_REPLY, True, True),
            ("session ended", "", "ended", PUSH, Fault.HOLD_REQUEST, True, False),
        )
    ],
)
def test_a_change_that_is_cut_off_is_done_or_undone_and_the_next_one_does_the_rest(
    docora: Docora,
    command: str,
    event: str,
    marker: bytes,
    fault: Fault,
    has_job: bool,
    was_reset: bool,
) -> None:
    link = docora.add_link()
    docora.add_deliveries(link, 7)
    row = docora.row(link)
    result = cut_off(docora, link, command, event, marker, fault)
    if event == "killed":
        assert result.code == -signal.SIGKILL
    elif marker is PUSH and event == "lost":
        refuses(result, "redis", "broke the connection")
    else:
        refuses(result, "postgres", "Postgres database")
    # A job too many is one that a worker simply runs.
    assert docora.waiting() == [link.job_id] * has_job
    docora.assert_sound()
    if was_reset:
        assert docora.was_reset(link)
    else:
        assert docora.row(link) == row
    assert docora.deliveries(link) == (0 if was_reset and command == "resync" else 7)

    again = docora.run(*arguments(command, link))
    if was_reset and command == "retry":
        assert again.code == 4, again
        assert (again.json["status"], again.json["job"]) == ("pending_snapshot", "waiting")
    else:
        assert again.code == 0, again
        assert again.data["outcome"] == ("already_queued" if has_job else "queued")
    assert docora.waiting() == [link.job_id]
    assert docora.was_reset(link)
    assert docora.deliveries(link) == (0 if command == "resync" else 7)


def cut_off(
    docora: Docora, link: TestLink, command: str, event: str, marker: bytes, fault: Fault
) -> Result:
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        proxies = (redis_proxy, postgres_proxy)
        process, moment = start_change(docora, command, link, proxies, marker, fault, PATIENT)
        if event == "killed":
            process.kill()
        elif event == "ended":
            assert terminate_sessions(docora) == 1
            moment.release()
        result = finish(process)
        await_goodbye(docora)
        assert marker is COMMIT or moment.requests == 1, "sent again"
    return result
