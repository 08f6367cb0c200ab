"""Apps that are down, slow, rude or mistaken."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from tests.support.delivery_checks import assert_in_sync, events, failure, sha, snapshot_row
from tests.support.proxy import refused_port
from tests.support.raw_app import OK, RawApp, Talk, raw_app
from tests.support.rows import TestLink
from tests.support.snapshots import Files, Snapshots, Upstream

FILES: Files = {"a.txt": "1", "src/b.py": "2", "z.txt": "3"}
INTERIM = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@contextmanager
def linked_app(
    snapshots: Snapshots, talk: Callable[[Talk], object], *, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[RawApp, TestLink, Upstream]]:
    """Serves an app that talks like this, and links it to a new repository."""
    with raw_app(snapshots.receiver, talk, tls=tls) as app:
        link, upstream = snapshots.add_link(FILES)
        snapshots.set_base_url(app.base_url)
        yield app, link, upstream


def goes_on_after(snapshots: Snapshots, link: TestLink, upstream: Upstream) -> None:
    """Once the app works again, only what it has not acknowledged is sent."""
    snapshots.set_base_url(snapshots.receiver.base_url("Acme"))
    snapshots.receiver.answer = lambda _: 200
    done = snapshots.deliveries(link)
    before = len(events(snapshots))
    snapshots.run_job(link)
    sent = {path for _, path in events(snapshots)[before:]}
    assert sent == {path for path in upstream.contents() if path not in done}
    assert_in_sync(snapshots, link, upstream)


@pytest.mark.parametrize("status", [101, 300, 304, 404, 500])
def test_any_answer_but_2xx_ends_the_job_at_once(snapshots: Snapshots, status: int) -> None:
    link, upstream = snapshots.add_link(FILES)
    snapshots.receiver.answer = lambda request: status if request.path == "src/b.py" else 200
    assert failure(snapshots, link) == f"HTTP {status} on created src/b.py"
    assert events(snapshots) == [("create", "a.txt"), ("create", "src/b.py")]
    assert snapshots.deliveries(link) == {"a.txt": sha("1")}
    assert snapshot_row(snapshots, link.repository_id) is None
    assert snapshots.docora.row(link)["last_scanned_at"] is None
    goes_on_after(snapshots, link, upstream)


@pytest.mark.parametrize(("event", "verb"), [("delete", "deleted"), ("update", "updated")])
def test_a_failed_change_leaves_what_was_recorded_before(
    snapshots: Snapshots, event: str, verb: str
) -> None:
    link, upstream = snapshots.add_synced({"a": "1", "b": "1", "c": "1", "d": "1"})
    before = snapshots.deliveries(link)
    stored = snapshot_row(snapshots, link.repository_id)
    upstream.commit({"a": None, "b": None, "c": "2", "d": "2"})
    second = {"delete": "b", "update": "d"}[event]
    snapshots.receiver.answer = lambda request: 500 if request.path == second else 200
    assert failure(snapshots, link) == f"HTTP 500 on {verb} {second}"
    del before["a"]
    if event == "update":
        del before["b"]
        before["c"] = sha("2")
    assert snapshots.deliveries(link) == before
    now = snapshot_row(snapshots, link.repository_id)
    assert stored is not None
    assert now is not None
    assert now["commit_sha"] == stored["commit_sha"]
    snapshots.receiver.answer = lambda _: 200
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)


def test_an_app_that_is_down_is_named(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link(FILES)
    port = refused_port()
    snapshots.set_base_url(f"http://127.0.0.1:{port}/hook")
    assert failure(snapshots, link) == f"127.0.0.1:{port}: Connection refused on created a.txt"
    assert snapshots.deliveries(link) == {}
    goes_on_after(snapshots, link, upstream)


def test_an_app_without_a_usable_url_gets_nothing(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link(FILES)
    for base_url in (
        "ftp://acme.example/hook",
        "acme.example/hook",
        "https://",
        "ftp://user:geheim@acme.example/hook",
        "https://acme.example:99999/hook",
        "https://acme example/hook",
        "https://[::1/hook",
        "",
    ):
        snapshots.set_base_url(base_url)
        assert failure(snapshots, link) == "the app's base_url is not an http or https URL"
    goes_on_after(snapshots, link, upstream)


# Connections that end


def reset_after_the_answer(talk: Talk) -> None:
    talk.take()
    talk.reset()


def reset_when_idle(talk: Talk) -> None:
    """Too late for the worker to see it: it has begun to send."""
    talk.take()
    talk.read_head()
    talk.reset()


def answer_in_part(talk: Talk) -> None:
    talk.take(b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65536)
    talk.wait_for_hangup()


def answer_without_end(talk: Talk) -> None:
    talk.take(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not talk.over.is_set():
        talk.send(b"1000\r\n%b\r\n" % (b"x" * 0x1000))


@pytest.mark.parametrize(
    "talk",
    [
        reset_after_the_answer,
        reset_when_idle,
        partial(Talk.take),
        partial(Talk.take, answer=OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")),
        partial(Talk.take, answer=b"HTTP/1.0 200 OK\r\n\r\nthanks"),
        partial(Talk.take, answer=OK.replace(b" 0", b" 50000000") + b"x" * 50_000_000),
        answer_in_part,
        answer_without_end,
    ],
)
def test_an_app_that_keeps_no_connection_gets_a_new_one_for_each_file(
    snapshots: Snapshots, talk: Callable[[Talk], object]
) -> None:
    with linked_app(snapshots, talk) as (app, link, upstream):
        snapshots.run_job(link)
        assert app.paths == sorted(FILES, key=str)
        assert app.connections == 3
    assert_in_sync(snapshots, link, upstream)


def test_an_answer_of_some_length_keeps_the_connection(snapshots: Snapshots) -> None:
    answers = [
        b"HTTP/1.1 100 Continue\r\n\r\n"
        + INTERIM
        + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536,
    ]

    def talk(talk: Talk) -> None:
        for answer in answers:
            talk.take(answer)
        talk.wait_for_hangup()

    with linked_app(snapshots, talk) as (app, link, upstream):
        snapshots.run_job(link)
        assert app.connections == 1
    assert_in_sync(snapshots, link, upstream)


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="the end can't come with the data")
def test_a_large_file_is_never_sent_on_a_connection_that_has_ended(snapshots: Snapshots) -> None:
    """It is not held in memory, so it could not be sent once more."""

    def talk(talk: Talk) -> None:
        talk.take(b"")
        talk.send_last(OK)
        talk.wait_for_hangup()

    with linked_app(snapshots, talk) as (app, link, upstream):
        upstream.commit({"large.txt": "x" * (2 << 20)})
        snapshots.run_job(link)
        assert app.paths == ["a.txt", "large.txt", "src/b.py", "z.txt"]
        assert app.connections == 4
    assert_in_sync(snapshots, link, upstream)


def test_a_request_is_sent_only_once_more(snapshots: Snapshots) -> None:
    def talk(talk: Talk) -> None:
        request = talk.read()
        if request is not None and request.path == "a.txt":
            talk.receiver.take(request)
            talk.send(OK)
            talk.read()

    with linked_app(snapshots, talk) as (app, link, upstream):
        error = failure(snapshots, link)
        assert error == (f"{app.host} closed the connection without an answer on created src/b.py")
        assert app.paths == ["a.txt", "src/b.py", "src/b.py"]
    goes_on_after(snapshots, link, upstream)


def reset_at_the_head(talk: Talk) -> None:
    talk.read_head()
    talk.reset()


def reset_after_the_request(talk: Talk) -> None:
    talk.read()
    talk.reset()


def answering(answer: bytes) -> Callable[[Talk], None]:
    """Reads a request, sends this and closes the connection."""

    def talk(talk: Talk) -> None:
        talk.read()
        talk.send(answer)

    return talk


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TOO_LONG = " answered with a line of more than 65,536 bytes"
MALFORMED = " sent an answer that is cut off or malformed"
NOT_HTTP = " did not answer in valid HTTP: the first line begins with "


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (reset_at_the_head, ": Connection reset by peer|: Broken pipe"),
        (reset_after_the_request, ": Connection reset by peer"),
        (answering(b""), " closed the connection without an answer"),
        (answering(INTERIM), " closed the connection without an answer"),
        (answering(b"HTTP/1.1 2"), " closed the connection within its answer"),
        (answering(b"220 mail.example ESMTP\r\n"), f"{NOT_HTTP}'220'"),
        (answering(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"), f"{NOT_HTTP}'SSH-2.0-OpenSSH_9.2p'"),
        (answering(b"\0\x1b[31m\r\n"), rf"{NOT_HTTP}'\x00\x1b[31m\r\n'"),
        (answering(b"HTTP/1.1 fine\r\n\r\n"), f"{NOT_HTTP}'HTTP/1.1'"),
        (answering(b"HTTP/2.0 200 OK\r\n\r\n"), " answered in 'HTTP/2.0' instead of HTTP/1.1"),
        (answering(b"HTTP/1.1 200 " + b"x" * 70_000 + b"\r\n\r\n"), TOO_LONG),
        (answering(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"), TOO_LONG),
        (answering(CHUNKED + b"1" * 70_000), TOO_LONG),
        (
            answering(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"),
            " answered with more than 100 headers",
        ),
        (answering(CHUNKED + b"10\r\nabc"), MALFORMED),
        (answering(CHUNKED + b"ten\r\nabc"), MALFORMED),
        (answering(CHUNKED + b"-5\r\nabc"), MALFORMED),
    ],
)
def test_a_request_without_a_whole_answer_is_not_acknowledged(
    snapshots: Snapshots, talk: Callable[[Talk], None], reason: str
) -> None:
    with linked_app(snapshots, talk) as (app, link, upstream):
        error = failure(snapshots, link)
        assert error in {f"{app.host}{each} on created a.txt" for each in reason.split("|")}
        assert app.connections == 1
    assert snapshots.deliveries(link) == {}
    goes_on_after(snapshots, link, upstream)


def test_the_answer_behind_interim_ones_counts(snapshots: Snapshots) -> None:
    answer = INTERIM + b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    with linked_app(snapshots, answering(answer)) as (_, link, upstream):
        assert failure(snapshots, link) == "HTTP 500 on created a.txt"
    goes_on_after(snapshots, link, upstream)


def test_an_answer_takes_no_more_memory_than_is_read(snapshots: Snapshots) -> None:
    """http.client itself reads a chunk of the length -1 to its end."""

    def talk(talk: Talk) -> None:
        talk.read()
        talk.send(CHUNKED + b"-1\r\n")
        with suppress(OSError):
            while not talk.over.is_set():
                talk.send(b"x\r\n" * 20_000)

    with linked_app(snapshots, talk) as (app, link, upstream):
        assert failure(snapshots, link) == f"{app.host}{MALFORMED} on created a.txt"
    goes_on_after(snapshots, link, upstream)
