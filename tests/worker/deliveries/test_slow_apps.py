"""Apps that take their time, apps that answer too soon, and apps that speak TLS."""

import time
from collections.abc import Callable

import pytest
import trustme

from docora_ops.worker import snapshot_job as job
from tests.support.delivery_checks import assert_in_sync, events, failure, sha
from tests.support.raw_app import OK, Talk, context, take_all
from tests.support.snapshots import Snapshots
from tests.worker.deliveries.test_failing_apps import FILES, INTERIM, goes_on_after, linked_app

LARGE = "x" * (20 << 20)
"""More than the buffers of a connection hold."""


def drip(talk: Talk, data: bytes) -> None:
    """A byte now and then, for far longer than anybody should listen."""
    end = time.monotonic() + 25
    while time.monotonic() < end and not talk.over.wait(0.05):
        talk.send(data)


def say_nothing(talk: Talk) -> None:
    talk.read()
    talk.wait_for_hangup()


def read_nothing(talk: Talk) -> None:
    talk.over.wait(25)


def dripping(head: bytes, data: bytes) -> Callable[[Talk], None]:
    """Reads a request, sends the head at once and the data again and again."""

    def talk(talk: Talk) -> None:
        talk.read()
        talk.send(head)
        drip(talk, data)

    return talk


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    "talk",
    [
        say_nothing,
        read_nothing,
        dripping(b"HTTP/1.1 200 OK\r\n", b"X"),
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
        dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        dripping(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
        dripping(b"", CONTINUE),
        dripping(b"", INTERIM),
    ],
)
def test_an_exchange_has_its_time_however_it_is_used(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch, talk: Callable[[Talk], None]
) -> None:
    assert job.DELIVERY_TIMEOUT == 30
    monkeypatch.setattr(job, "DELIVERY_TIMEOUT", 0.3)
    with linked_app(snapshots, talk) as (app, link, upstream):
        if talk is read_nothing:
            upstream.commit({"a.txt": LARGE})
        begun = time.monotonic()
        error = failure(snapshots, link)
        assert error == f"no answer from {app.host} within 0.3 s on created a.txt"
        assert time.monotonic() - begun < 20
        assert app.connections == 1
    assert snapshots.deliveries(link) == {}
    monkeypatch.undo()
    goes_on_after(snapshots, link, upstream)


def test_each_post_has_the_time_for_itself(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "DELIVERY_TIMEOUT", 0.8)

    def answer(_: object) -> int:
        time.sleep(0.3)
        return 200

    snapshots.receiver.answer = answer
    link, upstream = snapshots.add_synced(FILES)
    assert snapshots.receiver.connections == 1
    assert_in_sync(snapshots, link, upstream)


def test_a_reused_connection_that_says_nothing_is_not_tried_again(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "DELIVERY_TIMEOUT", 0.3)

    def talk(talk: Talk) -> None:
        talk.take()
        talk.read()
        drip(talk, CONTINUE)

    with linked_app(snapshots, talk) as (app, link, upstream):
        error = failure(snapshots, link)
        assert error == f"no answer from {app.host} within 0.3 s on created src/b.py"
        assert app.paths == ["a.txt", "src/b.py"]
    assert snapshots.deliveries(link) == {"a.txt": sha("1")}
    goes_on_after(snapshots, link, upstream)


# Answers before the whole request


def refuse_and_close(talk: Talk) -> None:
    talk.read_head()
    talk.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlong")


def refuse_and_read_on(talk: Talk) -> None:
    head = talk.read_head()
    assert head is not None
    talk.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    talk.read_body(head)
    talk.wait_for_hangup()


@pytest.mark.parametrize("talk", [refuse_and_close, refuse_and_read_on])
def test_an_app_that_refuses_a_body_before_it_has_read_it_is_heard(
    snapshots: Snapshots, talk: Callable[[Talk], None]
) -> None:
    with linked_app(snapshots, talk) as (_app, link, upstream):
        upstream.commit({"a.txt": LARGE})
        assert failure(snapshots, link) == "HTTP 413 on created a.txt"
    goes_on_after(snapshots, link, upstream)


def test_an_app_that_says_yes_before_it_has_read_the_body_is_not_believed(
    snapshots: Snapshots,
) -> None:
    def talk(talk: Talk) -> None:
        talk.read_head()
        talk.send(OK)

    with linked_app(snapshots, talk) as (app, link, upstream):
        upstream.commit({"a.txt": LARGE})
        error = failure(snapshots, link)
        assert error in {
            f"{app.host}: {reason} on created a.txt"
            for reason in ("Connection reset by peer", "Broken pipe")
        }
    assert snapshots.deliveries(link) == {}
    goes_on_after(snapshots, link, upstream)


# TLS


def test_a_certificate_that_nobody_vouches_for_gets_nothing(
    snapshots: Snapshots, authority: trustme.CA
) -> None:
    tls = context(authority, "127.0.0.1")
    with linked_app(snapshots, take_all, tls=tls) as (app, link, upstream):
        error = failure(snapshots, link)
        assert error.startswith(f"the certificate of {app.host} is not valid: ")
        assert " on created a.txt: " in error
        assert app.requests == []
    assert snapshots.deliveries(link) == {}
    goes_on_after(snapshots, link, upstream)


def test_a_certificate_for_another_host_gets_nothing(
    snapshots: Snapshots, trusted: trustme.CA
) -> None:
    with linked_app(snapshots, take_all, tls=context(trusted, "acme.example")) as (app, link, _):
        error = failure(snapshots, link)
        assert error.startswith(f"the certificate of {app.host} is not valid: IP address mismatch")
        assert app.requests == []


def test_a_certificate_of_a_trusted_authority_is_fine(
    snapshots: Snapshots, trusted: trustme.CA
) -> None:
    with linked_app(snapshots, take_all, tls=context(trusted, "127.0.0.1")) as (
        app,
        link,
        upstream,
    ):
        upstream.commit({"large.txt": "\u20ac" * 1_000_000})
        snapshots.run_job(link)
        assert app.connections == 1
    assert len(events(snapshots)) == 4
    assert_in_sync(snapshots, link, upstream)


def test_tls_connections_may_end_between_files_too(
    snapshots: Snapshots, trusted: trustme.CA
) -> None:

    def talk(talk: Talk) -> None:
        talk.take()
        talk.read_head()

    with linked_app(snapshots, talk, tls=context(trusted, "127.0.0.1")) as (app, link, upstream):
        snapshots.run_job(link)
        assert app.connections == 3
    assert_in_sync(snapshots, link, upstream)


def test_an_app_that_speaks_no_tls_is_named(snapshots: Snapshots) -> None:
    with linked_app(snapshots, lambda talk: talk.send(b"hello\r\n")) as (app, link, upstream):
        snapshots.set_base_url(f"https://{app.host}")
        assert failure(snapshots, link).startswith(f"{app.host}: [SSL: WRONG_VERSION_NUMBER]")
    goes_on_after(snapshots, link, upstream)


def test_a_handshake_has_its_time_too(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip_a_handshake(talk: Talk) -> None:
        talk.send(b"\x16\x03\x03\x40\x00")  # 16 KiB of it are to come
        drip(talk, b"x")

    monkeypatch.setattr(job, "DELIVERY_TIMEOUT", 0.3)
    with linked_app(snapshots, drip_a_handshake) as (app, link, _):
        snapshots.set_base_url(f"https://{app.host}/Acme")
        error = failure(snapshots, link)
        assert error == f"no answer from {app.host} within 0.3 s on created a.txt"
