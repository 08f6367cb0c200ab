"""One POST to an app: apps that are down, slow, rude or mistaken, TLS, redirects and proxies."""

import logging
import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from docora_ops.errors import DeliveryError
from docora_ops.worker import authorities
from docora_ops.worker.authorities import certificate_hint
from docora_ops.worker.webhook import Body, Webhook
from tests.support.git_over_http import GitSite, basic
from tests.support.proxy import patience
from tests.support.receiver import Receiver, stringify
from tests.support.rows import TestLink
from tests.support.snapshots import AUTH_KEY, Snapshots, Upstream
from tests.worker.jobs import assert_in_sync, failure, git_failures
from tests.worker.raw_app import OK, RawApp, Talk, context, raw_app, take_all

Head = tuple[str, dict[str, str]]


def body_of(path: str, content: str = "") -> bytes:
    """A body that the receiver takes."""
    file = {"path": path, "sha": "1", "size": len(content), "content": content}
    return stringify({"repository": {"repository_id": "r"}, "file": file}).encode()


def pieces_of(body: bytes) -> Body:
    """The same body, as one that is too large for the memory."""
    size = 1 << 18
    return lambda: (body[start : start + size] for start in range(0, len(body), size))


SMALL = [body_of(path) for path in ("a", "b", "c")]
LARGE = body_of("large", "x" * (20 << 20))
"""More than the buffers of a connection hold."""


def serving(
    talk: Callable[[Talk], object], *, tls: ssl.SSLContext | None = None
) -> AbstractContextManager[RawApp]:
    return raw_app(Receiver({"Acme": AUTH_KEY}), talk, tls=tls)


def post(base_url: str, *, bodies: Iterable[Body] = SMALL, timeout: float = 30) -> None:
    """Sends the bodies, as a job would, one after the other."""
    with closing(Webhook(base_url, "app_1", AUTH_KEY, timeout)) as webhook:
        for body in bodies:
            webhook.post("create", body)


def error_of(base_url: str, *bodies: Body, timeout: float = 30) -> str:
    """The error of a POST, and its hint."""
    with pytest.raises(DeliveryError) as caught:
        post(base_url, bodies=bodies or SMALL[:1], timeout=timeout)
    return ": ".join(filter(None, (caught.value.message, caught.value.hint)))


# The time of a POST


def say_nothing(talk: Talk) -> None:
    talk.read()
    talk.wait_for_hangup()


def read_slowly(talk: Talk) -> None:
    """Each single send makes some progress."""
    end = time.monotonic() + patience()
    while time.monotonic() < end and not talk.over.wait(0.02) and talk.read_some(1 << 16):
        pass


def dripping(head: bytes, data: bytes, *, reads: bool = True) -> Callable[[Talk], None]:
    """Sends the head at once, and the data for far longer than anybody should listen."""

    def talk(talk: Talk) -> None:
        if reads:
            talk.read()
        talk.send(head)
        end = time.monotonic() + patience()
        while time.monotonic() < end and not talk.over.wait(0.05):
            talk.send(data)

    return talk


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + HINTS + HINTS
"""Answers that are followed by another one."""
HANDSHAKE = dripping(b"\x16\x03\x03\x40\x00", b"x", reads=False)  # 16 KiB of it are to come


@pytest.mark.parametrize(
    "talk",
    [
        say_nothing,
        read_slowly,
        dripping(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        dripping(b"", HINTS),
        HANDSHAKE,
    ],
)
def test_a_post_has_its_time_however_it_is_used(talk: Callable[[Talk], None]) -> None:
    body = pieces_of(LARGE) if talk is read_slowly else SMALL[0]
    with serving(talk) as app:
        scheme = "https" if talk is HANDSHAKE else "http"
        begun = time.monotonic()
        error = error_of(f"{scheme}://{app.host}/Acme", body, timeout=0.3)
        assert error == f"no answer from {app.host} within 0.3 s"
        assert time.monotonic() - begun < patience() / 2, "it was the app that ended it"
    assert app.connections == 1


# Connections that stay open, and those that end


def test_an_answer_of_some_length_keeps_the_connection_for_the_next_file() -> None:
    answers = [
        INTERIM + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536,
    ]
    with serving(lambda talk: [talk.take(answer) for answer in answers]) as app:
        post(app.base_url)
        assert app.paths == ["a", "b", "c"]
        assert app.connections == 1


def reset_when_idle(talk: Talk) -> None:
    """Too late for the worker to see it: it has begun to send."""
    talk.take()
    talk.read_head()
    talk.reset()


def answer_without_end(talk: Talk) -> None:
    talk.take(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not talk.over.is_set():
        talk.send(b"1000\r\n%b\r\n" % (b"x" * 0x1000))


@pytest.mark.parametrize("talk", [reset_when_idle, Talk.take, answer_without_end])
def test_an_app_that_keeps_no_connection_gets_a_new_one_for_each_file(
    trusted: trustme.CA, talk: Callable[[Talk], object]
) -> None:
    with serving(talk, tls=context(trusted, "127.0.0.1")) as app:
        post(app.base_url)
        assert (app.paths, app.connections) == (["a", "b", "c"], 3)


CLOSED = ": Remote end closed connection without response"


def test_a_request_is_sent_only_once_more() -> None:
    def talk(talk: Talk) -> None:
        if not app.paths:
            talk.take()
        talk.read()

    with serving(talk) as app:
        assert error_of(app.base_url, *SMALL[:2]) == f"{app.host}{CLOSED}"
        assert app.paths == ["a", "b", "b"]


# Answers that are no success


def answering(answer: bytes, *, early: bool = False) -> Callable[[Talk], None]:
    """Reads a request, or only its head, sends this and closes the connection."""

    def talk(talk: Talk) -> None:
        talk.read_head() if early else talk.read()
        talk.send(answer)

    return talk


@pytest.mark.parametrize("body", [LARGE, pieces_of(LARGE)], ids=["bytes", "pieces"])
def test_an_answer_before_the_whole_body_was_read_counts_only_if_it_is_a_refusal(
    body: Body,
) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlong"
    with serving(answering(refusal, early=True)) as app:
        assert error_of(app.base_url, body) == "HTTP 413"
    with serving(answering(OK, early=True)) as app:
        error = error_of(app.base_url, body)
        assert error in {f"{app.host}: Connection reset by peer", f"{app.host}: Broken pipe"}


def test_interim_answers_are_skipped_before_a_refusal_and_a_switch_of_protocols_is_none() -> None:
    with serving(answering(INTERIM + b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n")) as app:
        assert error_of(app.base_url) == "HTTP 502"
    with serving(answering(HINTS + b"HTTP/1.1 101 Switching Protocols\r\n\r\n")) as app:
        assert error_of(app.base_url) == "HTTP 101"


def reset_at_the_head(talk: Talk) -> None:
    talk.read_head()
    talk.reset()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
RESET = {": Connection reset by peer", ": Broken pipe", CLOSED}
INVALID = {" broke off its answer, or sent one that is not valid HTTP/1.1"}


@pytest.mark.parametrize(
    ("talk", "reasons"),
    [
        (reset_at_the_head, RESET),
        (answering(b"220 mail.example ESMTP geheim\r\n"), {" did not answer in HTTP"}),
        (answering(b"HTTP/2.0 200 OK\r\n\r\n"), INVALID),
        (answering(b"HTTP/1.1 200 " + b"geheim" * 20_000), INVALID),
        (answering(b"HTTP/1.1 200 OK\r\nX: " + b"geheim" * 20_000), INVALID),
        (answering(b"HTTP/1.1 200 OK\r\n" + b"X: geheim\r\n" * 101 + b"\r\n"), INVALID),
        (answering(CHUNKED + b"10\r\nabc"), INVALID),
        (answering(CHUNKED + b"geheim\r\n"), INVALID),
    ],
)
def test_a_request_without_a_whole_answer_is_not_acknowledged(
    talk: Callable[[Talk], None], reasons: set[str]
) -> None:
    with serving(talk) as app:
        assert error_of(app.base_url) in {f"{app.host}{reason}" for reason in reasons}
        assert app.connections == 1


# TLS


def test_an_app_gets_nothing_without_a_valid_certificate(trusted: trustme.CA) -> None:
    past, future = datetime(2024, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)
    authority_hint, name = "set NODE_EXTRA_CA_CERTS", "127.0.0.1"
    for certificate, reason, hint in (
        (trustme.CA().issue_cert(name), "", authority_hint),
        (trusted.issue_cert("acme.example"), "IP address mismatch", "use the host name that"),
        (
            trusted.issue_cert(name, not_after=past),
            "certificate has expired",
            "must renew its certificate",
        ),
        (
            trusted.issue_cert(name, not_before=future, not_after=future.replace(year=2099)),
            "certificate is not yet valid",
            "check this host's clock",
        ),
    ):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(tls)
        with serving(take_all, tls=tls) as app:
            error = error_of(app.base_url)
            assert error.startswith(f"the certificate of {app.host} is not valid: {reason}")
            assert hint in error
            assert (authority_hint in error) == (hint == authority_hint)
            assert app.requests == []


# The base_url


def noting(heads: list[Head]) -> Callable[[Talk], None]:
    """Takes all requests, and notes the target and the headers of each."""

    def talk(talk: Talk) -> None:
        while head := talk.read_head():
            talk.read_body(head)
            heads.append(head)
            talk.send(OK)

    return talk


def test_user_password_and_query_of_a_base_url_reach_the_app() -> None:
    heads: list[Head] = []
    with serving(noting(heads)) as app:
        for login, suffix in (
            ("us%65r:p%C3%A4ss%40word@", "/hook?key=a b&x=%2F/"),
            ("token:@", "?key"),
            ("token@", "/#fragment"),
            (":password@", "/?"),
            ("", "/a%20b/\u00fc c//"),
        ):
            post(f"http://{login}{app.host}{suffix}", bodies=SMALL[:1])
    assert [(path, headers.get("Authorization")) for path, headers in heads] == [
        ("/hook/create?key=a%20b&x=%2F/", basic("user", "p\u00e4ss@word")),
        ("/create?key", basic("token")),
        ("/create", basic("token")),
        ("/create", basic("", "password")),
        ("/a%20b/%C3%BC%20c/create", None),
    ]
    assert {headers["Host"] for _, headers in heads} == {app.host}


# Redirects and logs


def test_a_redirect_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    answer = (
        b"HTTP/1.1 308 Moved\r\nno header\r\nLocation: /new?key=geheim\r\nContent-Length: 0\r\n\r\n"
    )
    with caplog.at_level(logging.DEBUG), serving(answering(answer)) as app:
        assert error_of(f"http://user:geheim@{app.host}/Acme?key=geheim") == (
            "HTTP 308: redirects are not followed: give the app its new base_url"
        )
        assert len(app.requests) == 1
    assert "geheim" not in caplog.text


# Proxies


def test_http_proxy_is_used_unless_no_proxy_names_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[Head] = []
    with serving(noting(heads)) as proxy, serving(take_all) as app:
        monkeypatch.setenv("HTTP_PROXY", f"http://pr%6Fxy:p%40ss@{proxy.host}")
        monkeypatch.setenv("no_proxy", "x.example,127.0.0.1")
        for base_url in ("http://user:geheim@acme.example:8080/Acme?key=1", app.base_url):
            post(base_url)
        assert (len(heads), app.paths, proxy.connections) == (3, ["a", "b", "c"], 1)
    target, headers = heads[0]
    assert target == "http://acme.example:8080/Acme/create?key=1"
    assert headers["Host"] == "acme.example:8080"
    assert headers["Authorization"] == basic("user", "geheim")
    assert headers["Proxy-Authorization"] == basic("proxy", "p@ss")


def test_https_proxy_can_read_nothing(monkeypatch: pytest.MonkeyPatch, trusted: trustme.CA) -> None:
    heads: list[Head | None] = []

    def connect(talk: Talk) -> None:
        heads.append(talk.read_head())
        talk.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        talk.tunnel(port)

    tls = context(trusted, "acme.example")
    with serving(take_all, tls=tls) as app, serving(connect) as proxy:
        port = app.listener.getsockname()[1]
        monkeypatch.setenv("https_proxy", f"proxy:geheim@{proxy.host}")
        post(f"https://user:geheim@acme.example:{port}/Acme")
        assert proxy.connections == 1
        for request in app.requests:
            assert request.headers["Authorization"] == basic("user", "geheim")
            assert "Proxy-Authorization" not in request.headers
    assert app.paths == ["a", "b", "c"]
    assert heads[0] is not None
    target, headers = heads[0]
    assert target == f"acme.example:{port}"
    assert headers["Proxy-Authorization"] == basic("proxy", "geheim")
    assert "Authorization" not in headers


def test_an_unusable_base_url_or_proxy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for base_url in ("ftp://user:geheim@acme.example/hook", "https://[::1/hook"):
        assert error_of(base_url) == "the app's base_url is not an http or https URL"
    with serving(take_all) as app:
        for url in ("socks5://user:geheim@127.0.0.1:1", "http://", "http://127.0.0.1:99999"):
            monkeypatch.setenv("http_proxy", url)
            assert error_of(app.base_url) == (
                f"the proxy for {app.host} is not an http://HOST:PORT:"
                " see http_proxy, all_proxy and no_proxy in the worker's environment"
            )
        assert app.connections == 0


SYSTEM = Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    authorities.tls_context.cache_clear()


@pytest.fixture
def tls_link(snapshots: Snapshots, authority: trustme.CA) -> Iterator[tuple[TestLink, Upstream]]:
    """Serves a repository and an app, both by TLS, and links them."""
    tls = context(authority, "127.0.0.1")
    upstream = snapshots.add_upstream()
    upstream.commit({"a.txt": "1", "b.txt": "2"})
    snapshots.settings_changes["git_protocols"] = "https"
    with (
        GitSite(snapshots.folder / "upstream", tls=tls).serving() as site,
        raw_app(snapshots.receiver, take_all, tls=tls) as app,
    ):
        repository = snapshots.docora.add_repository("octo/api", url=f"{site.url}/octo/api")
        link = snapshots.link(snapshots.add_app(), repository)
        snapshots.set_base_url(app.base_url)
        yield link, upstream


@pytest.mark.slow
def test_node_extra_ca_certs_is_trusted_for_apps_and_git_beside_the_systems_authorities(
    snapshots: Snapshots, tls_link: tuple[TestLink, Upstream], tmp_path: Path
) -> None:
    env_file = tmp_path / "docora.env"
    env_file.write_text(f"NODE_EXTRA_CA_CERTS={tmp_path / 'ca.pem'}\n", encoding="utf-8")
    snapshots.queue(tls_link[0])
    snapshots.work("--env-file", str(env_file), DOCORA_OPS_GIT_PROTOCOLS="https").ended(0)
    assert_in_sync(snapshots, *tls_link)
    [written] = (snapshots.repos / ".docora-ops").glob("*.pem")
    if SYSTEM.exists():
        known, extra = (ssl.create_default_context(cafile=str(each)) for each in (SYSTEM, written))
        assert extra.cert_store_stats()["x509"] == known.cert_store_stats()["x509"] + 1


@pytest.mark.slow
def test_a_certificate_of_an_unknown_authority_has_a_hint(
    snapshots: Snapshots,
    tls_link: tuple[TestLink, Upstream],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link, _ = tls_link
    error = failure(snapshots, link)
    assert error.startswith("fatal: unable to access 'https://127.0.0.1:")
    assert error.endswith(f"; {certificate_hint('unknown')}")
    assert git_failures(snapshots, link) == 1
    monkeypatch.setenv("GIT_SSL_CAINFO", str(tmp_path / "ca.pem"))
    error = failure(snapshots, link)
    assert error.startswith("the certificate of 127.0.0.1:")
    assert error.endswith(f" on created a.txt: {certificate_hint('unknown')}")
    assert "NODE_EXTRA_CA_CERTS" in snapshots.docora.row(link)["last_error"]


def test_a_file_that_can_not_be_used_is_a_warning_as_with_node(
    snapshots: Snapshots,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "extra.pem"
    path.write_text("hello\n", encoding="utf-8")
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(path))
    authorities.use_authorities(snapshots.settings)
    reason = "it holds no certificates in PEM form"
    assert caplog.messages == [f"NODE_EXTRA_CA_CERTS is ignored: {path}: {reason}"]
    assert not {"NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"} & os.environ.keys()
