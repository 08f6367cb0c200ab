"""What an app's base_url may hold: a login, a query; and the proxies that lie before it."""

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
from tests.worker.deliveries.test_failing_apps import goes_on_after, linked_app
from tests.worker.deliveries.test_redirects import redirect

Head = tuple[str, dict[str, str]]


def noting(heads: list[Head]) -> Callable[[Talk], None]:
    """Takes all requests, and notes the path and the headers of each."""

    def talk(talk: Talk) -> None:
        while head := talk.read_head():
            talk.read_body(head)
            heads.append(head)
            talk.send(OK)

    return talk


def test_user_password_and_query_of_a_base_url_reach_the_app(snapshots: Snapshots) -> None:
    heads: list[Head] = []
    with linked_app(snapshots, noting(heads)) as (app, link, upstream):
        upstream.commit({"src/b.py": None, "z.txt": None})
        for login, suffix in (
            ("us%65r:p%C3%A4ss%40word", "/hook?key=a b&x=%2F/"),
            ("token:", "?key"),
            ("token", "/#fragment"),
            (":password", "/?"),
            ("", "/a%20b/ü c//"),
        ):
            snapshots.set_base_url(f"http://{login}@{app.host}{suffix}".replace("//@", "//"))
            snapshots.docora.connection.execute("DELETE FROM app_delivered_files")
            snapshots.run_job(link)
    assert [(path, headers.get("Authorization")) for path, headers in heads] == [
        ("/hook/create?key=a%20b&x=%2F/", basic("user", "päss@word")),
        ("/create?key", basic("token")),
        ("/create", basic("token")),
        ("/create", basic("", "password")),
        ("/a%20b/%C3%BC%20c/create", None),
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

    with linked_app(snapshots, talk) as (app, link, _):
        snapshots.set_base_url(f"http://username1:p%40ssword@{app.host}?a=queryvalue")
        with caplog.at_level(logging.DEBUG):
            error = failure(snapshots, link)
    assert f"HTTP 301: moved to http://{app.host}/password1/***/***/***/*** on created" in error
    assert {secret for secret in secrets_of("http://u:p@h/?q=x") if len(secret) < 8} == {"dTpw"}
    for secret in ("username1", "p%40ssword", "p@ssword", "queryvalue"):
        assert secret not in error + caplog.text


# Proxies


def test_http_proxy_stands_before_the_apps_that_no_proxy_does_not_name(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[Head] = []
    with raw_app(snapshots.receiver, noting(heads)) as proxy:
        link, upstream = snapshots.add_link({"a.txt": "1"})
        snapshots.set_base_url("http://user:geheim@acme.example:8080/Acme")
        monkeypatch.setenv("HTTP_PROXY", f"http://pr%6Fxy:p%40ss@{proxy.host}")
        snapshots.run_job(link)
        [(target, headers)] = heads
        assert target == "http://acme.example:8080/Acme/create"
        assert headers["Host"] == "acme.example:8080"
        assert headers["Authorization"] == basic("user", "geheim")
        assert headers["Proxy-Authorization"] == basic("proxy", "p@ss")

        snapshots.docora.connection.execute("DELETE FROM app_delivered_files")
        monkeypatch.setenv("no_proxy", "x.example,127.0.0.1")
        snapshots.set_base_url(snapshots.receiver.base_url("Acme"))
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
        linked_app(snapshots, take_all, tls=tls) as (app, link, upstream),
        raw_app(snapshots.receiver, connect) as proxy,
    ):
        port = app.listener.getsockname()[1]
        upstream.commit({"large.txt": "\u20ac" * 1_000_000})
        snapshots.set_base_url(f"https://user:geheim@acme.example:{port}/Acme")
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
        (None, "http", "the proxy {proxy}: Connection refused{on}"),
        (None, "https", "the proxy {proxy}: Connection refused{on}"),
        (hang_up, "https", "the proxy {proxy} closed the connection without an answer{on}"),
        (answering(403), "https", "the proxy {proxy} does not connect to {app}: HTTP 403{on}"),
        (answering(407), "http", "HTTP 407{on}: the proxy {proxy} wants another user or password"),
        (answering(502), "http", "HTTP 502{on}: answered through the proxy {proxy}"),
        (say_nothing, "https", "no answer from the proxy {proxy} within 0.3 s{on}"),
        (say_nothing, "http", "no answer from {app} through the proxy {proxy} within 0.3 s{on}"),
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
    with linked_app(snapshots, talk or take_all) as (app, link, upstream):
        proxy = app.host if talk else f"127.0.0.1:{refused_port()}"
        snapshots.set_base_url(f"{scheme}://user:geheim@acme.example:8080/Acme")
        with monkeypatch.context() as patch:
            patch.setenv("all_proxy", f"http://user:geheim@{proxy}")
            assert failure(snapshots, link) == error.format(
                proxy=proxy, app="acme.example:8080", on=" on created a.txt"
            )
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
