"""What an app's base_url may hold: a login, a query; and the proxies that lie before it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import trustme

from docora_ops.worker import snapshot_job as job
from docora_ops.worker.endpoint import secrets_of
from tests.support.delivery_checks import assert_in_sync, failure
from tests.support.git_over_http import basic
from tests.support.proxy import refused_port
from tests.support.raw_app import OK, Talk, context, raw_app, take_all
from tests.support.snapshots import Snapshots
from tests.worker.deliveries.test_failing_apps import goes_on_after, link_to
from tests.worker.deliveries.test_redirects import redirect, set_base_url


def test_user_password_and_query_of_a_base_url_reach_the_app(snapshots: Snapshots) -> None:
    heads = []

    def talk(talk: Talk) -> None:
        while head := talk.read_head():
            talk.read_body(head)
            heads.append((head[0], head[1]["Authorization"]))
            talk.send(OK)

    with raw_app(snapshots.receiver, talk) as app:
        link, upstream = link_to(snapshots, app)
        upstream.commit({"src/b.py": None, "z.txt": None})
        for login, suffix in (
            ("us%65r:p%C3%A4ss%40word", "/hook?key=a b&x=%2F/"),
            ("token:", "?key"),
            ("token", "/#fragment"),
            (":password", "/?"),
        ):
            set_base_url(snapshots, f"http://{login}@{app.host}{suffix}")
            snapshots.docora.connection.execute("DELETE FROM app_delivered_files")
            snapshots.run_job(link)
    assert heads == [
        ("/hook/create?key=a%20b&x=%2F/", basic("user", "päss@word")),
        ("/create?key", basic("token")),
        ("/create", basic("token")),
        ("/create", basic("", "password")),
    ]


def test_what_an_app_repeats_of_its_login_is_not_shown(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
    def talk(talk: Talk) -> None:
        head = talk.read_head()
        assert head is not None
        talk.read_body(head)
        login = head[1]["Authorization"].removeprefix("Basic ")
        talk.send(redirect(301, f"/password1/username1/p%40ssword/{login}/queryvalue"))

    with raw_app(snapshots.receiver, talk) as app:
        link, _ = link_to(snapshots, app)
        set_base_url(snapshots, f"http://username1:p%40ssword@{app.host}?a=queryvalue")
        with caplog.at_level(logging.DEBUG):
            error = failure(snapshots, link)
    assert f"the app redirects to http://{app.host}/password1/***/***/***/***, which" in error
    assert {secret for secret in secrets_of("http://u:p@h/?q=x") if len(secret) < 8} == {"dTpw"}
    for secret in ("username1", "p%40ssword", "p@ssword", "queryvalue"):
        assert secret not in error + caplog.text


# Proxies


def test_http_proxy_stands_before_the_apps_that_no_proxy_does_not_name(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = []

    def talk(talk: Talk) -> None:
        while head := talk.read_head():
            talk.read_body(head)
            heads.append((head[0], head[1]))
            talk.send(OK)

    with raw_app(snapshots.receiver, talk) as proxy:
        link, upstream = snapshots.add_link({"a.txt": "1"})
        set_base_url(snapshots, "http://user:geheim@acme.example:8080/Acme")
        monkeypatch.setenv("HTTP_PROXY", f"http://pr%6Fxy:p%40ss@{proxy.host}")
        snapshots.run_job(link)
        [(target, headers)] = heads
        assert target == "http://acme.example:8080/Acme/create"
        assert headers["Host"] == "acme.example:8080"
        assert headers["Authorization"] == basic("user", "geheim")
        assert headers["Proxy-Authorization"] == basic("proxy", "p@ss")

        snapshots.docora.connection.execute("DELETE FROM app_delivered_files")
        monkeypatch.setenv("no_proxy", "x.example,127.0.0.1")
        set_base_url(snapshots, snapshots.receiver.base_url("Acme"))
        snapshots.run_job(link)
        assert proxy.connections == 1
    assert_in_sync(snapshots, link, upstream)


def test_https_proxy_only_forwards_what_it_can_not_read(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch, trusted: trustme.CA
) -> None:
    heads = []

    def connect(talk: Talk) -> None:
        head = talk.read_head()
        assert head is not None
        heads.append(head)
        talk.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        talk.tunnel(port)

    tls = context(trusted, "acme.example")
    with (
        raw_app(snapshots.receiver, take_all, tls=tls) as app,
        raw_app(snapshots.receiver, connect) as proxy,
    ):
        port = app.listener.getsockname()[1]
        link, upstream = link_to(snapshots, app)
        upstream.commit({"large.txt": "\u20ac" * 1_000_000})
        set_base_url(snapshots, f"https://user:geheim@acme.example:{port}/Acme")
        monkeypatch.setenv("https_proxy", f"proxy:geheim@{proxy.host}")
        snapshots.run_job(link)
        assert {request.headers["Authorization"] for request in app.requests} == {
            basic("user", "geheim")
        }
        assert not any("Proxy-Authorization" in request.headers for request in app.requests)
    assert_in_sync(snapshots, link, upstream)
    [(target, headers)] = heads
    assert target == f"acme.example:{port}"
    assert headers["Proxy-Authorization"] == basic("proxy", "geheim")
    assert "Authorization" not in headers


def hang_up(talk: Talk) -> None:
    talk.read_head()


def say_nothing(talk: Talk) -> None:
    talk.wait_for_hangup()


def answering(status: int) -> Callable[[Talk], None]:
    def talk(talk: Talk) -> None:
        talk.read_head()
        talk.send(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
        talk.wait_for_hangup()

    return talk


@pytest.mark.parametrize(
    ("talk", "scheme", "error"),
    [
        (None, "http", "the proxy {proxy}: Connection refused on created a.txt"),
        (None, "https", "the proxy {proxy}: Connection refused on created a.txt"),
        (hang_up, "https", "the proxy {proxy}: RemoteDisconnected on created a.txt"),
        (
            answering(403),
            "https",
            "the proxy {proxy} does not connect to acme.example:8080: HTTP 403 on created a.txt",
        ),
        (
            answering(407),
            "http",
            "HTTP 407 on created a.txt: the proxy {proxy} wants another user or password",
        ),
        (
            answering(502),
            "http",
            "HTTP 502 on created a.txt: answered through the proxy {proxy}",
        ),
        (say_nothing, "https", "no answer from the proxy {proxy} within 0.3 s on created a.txt"),
        (
            say_nothing,
            "http",
            "no answer from acme.example:8080 through the proxy {proxy} within 0.3 s"
            " on created a.txt",
        ),
    ],
)
def test_a_proxy_that_fails_is_named(
    snapshots: Snapshots,
    monkeypatch: pytest.MonkeyPatch,
    talk: Callable[[Talk], None] | None,
    scheme: str,
    error: str,
) -> None:
    if talk is say_nothing:
        monkeypatch.setattr(job, "DELIVERY_TIMEOUT", 0.3)
    with raw_app(snapshots.receiver, talk or take_all) as app:
        proxy = app.host if talk else f"127.0.0.1:{refused_port()}"
        link, upstream = link_to(snapshots, app)
        set_base_url(snapshots, f"{scheme}://user:geheim@acme.example:8080/Acme")
        with monkeypatch.context() as patch:
            patch.setenv("all_proxy", f"http://user:geheim@{proxy}")
            assert failure(snapshots, link) == error.format(proxy=proxy)
    monkeypatch.undo()
    goes_on_after(snapshots, link, upstream)


def test_a_proxy_of_another_kind_is_refused_and_not_passed_by(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link({"a.txt": "1"})
    host = snapshots.receiver.url.removeprefix("http://")
    for url in ("socks5://user:geheim@127.0.0.1:1", "http://", "http://127.0.0.1:99999"):
        monkeypatch.setenv("http_proxy", url)
        assert failure(snapshots, link) == (
            f"the proxy for {host} is not an http://HOST:PORT:"
            " see http_proxy, all_proxy and no_proxy in the worker's environment"
        )
    assert snapshots.receiver.connections == 0
