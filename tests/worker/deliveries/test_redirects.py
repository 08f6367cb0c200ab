"""Apps that have moved: which redirects are followed, and what goes along."""

import logging
import socket
import time
from contextlib import closing
from typing import Any

import pytest
import trustme

from docora_ops.demo.receiver import stringify
from docora_ops.errors import DeliveryError
from docora_ops.worker import http_connection
from docora_ops.worker import snapshot_job as job
from docora_ops.worker.http_connection import ConnectionPool
from docora_ops.worker.webhook import Webhook
from tests.support.delivery_checks import assert_in_sync, events, failure, sha
from tests.support.git_over_http import basic
from tests.support.raw_app import Talk, context, raw_app, take_all
from tests.support.snapshots import Snapshots
from tests.worker.deliveries.test_failing_apps import goes_on_after, linked_app

LARGE = "x" * (20 << 20)
"""More than the buffers of a connection hold."""


def redirect(status: int, location: str | None) -> bytes:
    """An answer, with a few bytes that nobody needs."""
    header = f"Location: {location}\r\n" if location is not None else ""
    return f"HTTP/1.1 {status} Elsewhere\r\n{header}Content-Length: 4\r\n\r\ngone".encode()


@pytest.mark.parametrize("status", [307, 308])
def test_the_same_signed_request_goes_where_307_and_308_lead(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    target = snapshots.receiver.base_url("Acme")

    def talk(talk: Talk) -> None:
        while request := talk.read():
            talk.send(redirect(status, f"{target}/{request.event}?key=hidden"))

    with linked_app(snapshots, talk) as (app, link, upstream):
        upstream.commit({"a.bin": b"\0" * (2 << 20), "large.txt": "\u20ac" * 1_000_000})
        snapshots.set_base_url(app.base_url.replace("://", "://user:geheim@"))
        with caplog.at_level(logging.DEBUG):
            snapshots.run_job(link)
        assert_in_sync(snapshots, link, upstream)
        assert [request.body for request in app.requests] == [
            request.body for request in snapshots.received().requests
        ]
        logins = {request.headers.get("Authorization") for request in app.requests}
        assert logins == {basic("user", "geheim")}
        assert app.connections == snapshots.receiver.connections == 1
    assert all("Authorization" not in request.headers for request in snapshots.received().requests)
    lines = [line for line in caplog.messages if "redirects" in line]
    assert lines == [f"app {link.app_id} redirects to {snapshots.receiver.url}"]
    assert "hidden" not in caplog.text
    assert "geheim" not in caplog.text


def test_a_redirect_within_the_app_keeps_connection_and_login(snapshots: Snapshots) -> None:
    def talk(talk: Talk) -> None:
        while request := talk.read():
            if request.app == "Acme":
                talk.send(redirect(308, f"../v2/{request.event}"))
                continue
            assert request.headers["Authorization"] == basic("user", "geheim")
            assert talk.receiver.take(request) == 200
            talk.send(b"HTTP/1.1 204 Yes\r\n\r\n")

    snapshots.receiver.keys["v2"] = "a-very-secret-auth-key"
    with linked_app(snapshots, talk) as (app, link, upstream):
        snapshots.set_base_url(app.base_url.replace("://", "://user:geheim@"))
        snapshots.run_job(link)
        assert app.connections == 1
    assert snapshots.received("v2").files == upstream.contents()


def test_a_redirect_before_the_whole_body_was_read_is_followed(snapshots: Snapshots) -> None:
    """The rest of the body must not be taken for the beginning of the next file."""
    target = snapshots.receiver.base_url("Acme")

    def talk(talk: Talk) -> None:
        talk.read_head()
        talk.send(
            f"HTTP/1.1 307 Elsewhere\r\nLocation: {target}/create\r\n"
            "Connection: close\r\nContent-Length: 0\r\n\r\n".encode()
        )

    with linked_app(snapshots, talk) as (_app, link, upstream):
        upstream.commit({"a.txt": LARGE, "b.txt": LARGE})
        snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)


USE_NEW = "a POST follows only 307 and 308: give the app its new base_url"
NOWHERE = "the app redirects without a Location that is an http or https URL"


@pytest.mark.parametrize(
    ("status", "location", "reason"),
    [
        (301, "https://u:geheim@new.example:444/hook/create?key=geheim#geheim", USE_NEW),
        (302, None, USE_NEW),
        (303, "/elsewhere", USE_NEW),
        (307, None, NOWHERE),
        (307, "ftp://new.example/create", NOWHERE),
        (308, "http://[::1/create", NOWHERE),
        (308, "http://new.example:99999/create", NOWHERE),
        (307, "", NOWHERE),
        (307, "?", "the app redirects more than 5 times"),
        (308, "/Acme/create", "the app redirects more than 5 times"),
    ],
)
def test_a_redirect_that_is_not_followed_says_why(
    snapshots: Snapshots, status: int, location: str | None, reason: str
) -> None:
    def talk(talk: Talk) -> None:
        while talk.read():
            talk.send(redirect(status, location))

    with linked_app(snapshots, talk) as (app, link, upstream):
        # Without the event, so that it is the new base_url, and the same for each event.
        moved = {
            301: ": moved to https://new.example:444/hook",
            303: f": moved to http://{app.host}/elsewhere",
        }.get(status, "")
        assert failure(snapshots, link) == f"HTTP {status}{moved} on created a.txt: {reason}"
        assert len(app.requests) == (6 if "more than 5" in reason else 1)
    assert events(snapshots) == []
    goes_on_after(snapshots, link, upstream)


def test_no_redirect_leads_from_https_to_http(snapshots: Snapshots, trusted: trustme.CA) -> None:
    target = f"{snapshots.receiver.base_url('Acme')}/create"

    def talk(talk: Talk) -> None:
        talk.read()
        talk.send(redirect(307, target))

    with linked_app(snapshots, talk, tls=context(trusted, "127.0.0.1")) as (_app, link, _):
        assert failure(snapshots, link) == (
            "HTTP 307 on created a.txt:"
            f" the app redirects from https to {target}, which is not encrypted"
        )
    assert snapshots.receiver.connections == 0


# The inner network


@pytest.mark.parametrize("is_open", [False, True])
def test_an_app_outside_can_not_have_a_file_sent_to_an_inner_address(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    """Neither on a new connection, nor on one that an app with an inner base_url has left open."""
    target = f"{snapshots.receiver.base_url('Acme')}/create"
    file = {"path": "a", "sha": sha(""), "size": 0, "content": ""}
    body = stringify({"repository": {"repository_id": "r"}, "file": file}).encode()

    def talk(talk: Talk) -> None:
        while talk.read():
            talk.send(redirect(307, target))

    with raw_app(snapshots.receiver, talk) as proxy, closing(ConnectionPool()) as connections:
        snapshots.receiver.keys["Acme"] = "key"
        if is_open:
            with Webhook(target[: -len("/create")], "a", "key", connections, 5) as inner:
                inner.send("create", body)
                inner.receive()
        before = snapshots.receiver.connections
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with Webhook("http://acme.example/Acme", "a", "key", connections, 5) as outer:
            outer.send("create", body)
            with pytest.raises(DeliveryError) as caught:
                outer.receive()
        assert (caught.value.message, caught.value.hint) == (
            "HTTP 307",
            f"the app redirects to {target}, and 127.0.0.1 is not a public address: give the app "
            "that base_url if it has moved there",
        )
        assert len(proxy.requests) == 1
        assert snapshots.receiver.connections == before == is_open


def test_a_job_says_that_its_app_redirects_to_an_inner_address(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"{snapshots.receiver.base_url('Acme')}/create"

    def talk(talk: Talk) -> None:
        while talk.read():
            talk.send(redirect(308, target))

    with linked_app(snapshots, talk) as (app, link, upstream):
        with monkeypatch.context() as patch:
            patch.setenv("http_proxy", f"http://{app.host}")
            patch.setenv("no_proxy", "127.0.0.1")
            snapshots.set_base_url("http://acme.example/Acme")
            assert failure(snapshots, link) == (
                f"HTTP 308 on created a.txt: the app redirects to {target}, and 127.0.0.1 is not a "
                "public address: give the app that base_url if it has moved there"
            )
        assert snapshots.receiver.connections == 0
        goes_on_after(snapshots, link, upstream)


@pytest.mark.parametrize("answers", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
def test_a_redirect_leads_to_the_address_that_was_checked(
    snapshots: Snapshots,
    monkeypatch: pytest.MonkeyPatch,
    trusted: trustme.CA,
    answers: list[str],
) -> None:
    """A name server could give an inner address to whoever asks a second time.

    For this test 127.0.0.1 is the only public address: no test can have a real one.
    """
    monkeypatch.setattr(http_connection, "is_public", lambda address: address == "127.0.0.1")
    look_up, looked_up = socket.getaddrinfo, []

    def resolve(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host != "moved.example":
            return look_up(host, port, *args, **options)
        looked_up.append(host)
        hosts = answers if len(looked_up) == 1 else ["127.0.0.2"]
        return [found for each in hosts for found in look_up(each, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    tls = context(trusted, "moved.example")
    with raw_app(snapshots.receiver, take_all, tls=tls) as target:
        port = target.listener.getsockname()[1]

        def talk(talk: Talk) -> None:
            while request := talk.read():
                where = f"https://moved.example:{port}/Acme/{request.event}"
                talk.send(redirect(307, where))

        with linked_app(snapshots, talk) as (_app, link, upstream):
            if len(answers) == 1:
                snapshots.run_job(link)
                assert_in_sync(snapshots, link, upstream)
            else:
                assert "127.0.0.2 is not a public address" in failure(snapshots, link)
                assert target.connections == 0
    assert looked_up == ["moved.example"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::8.8.8.8", True),
        *(
            (address, False)
            for address in (
                *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.8.9.1", "169.254.169.254"),
                *("172.16.0.1", "192.168.0.1", "224.0.0.1", "255.255.255.255"),
                *("::", "::1", "::ffff:127.0.0.1", "fd00::1", "fe80::1%lo", "ff02::1"),
                *("64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:a00:1::", "::127.0.0.1", "fec0::1"),
            )
        ),
    ],
)
def test_which_addresses_are_public(address: str, expected: bool) -> None:
    assert http_connection.is_public(address) is expected


def test_all_redirects_of_a_post_share_its_time(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "DELIVERY_TIMEOUT", 0.5)

    def talk(talk: Talk) -> None:
        for number in range(3):
            talk.read()
            time.sleep(0.4)
            talk.send(redirect(307, f"/Acme/create?{number}"))
        while talk.take():
            pass

    with linked_app(snapshots, talk) as (app, link, _):
        error = failure(snapshots, link)
        assert error == f"no answer from {app.host} within 0.5 s on created a.txt"
    assert snapshots.deliveries(link) == {}
