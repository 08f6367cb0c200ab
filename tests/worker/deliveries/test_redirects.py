"""Apps that have moved: which redirects are followed, and what goes along."""

import logging
import time

import pytest
import trustme

from docora_ops.worker import snapshot_job as job
from tests.support.delivery_checks import assert_in_sync, events, failure
from tests.support.git_over_http import basic
from tests.support.raw_app import Talk, context
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
