"""`probe`: each step to an app and to a git server, from real servers, and what is not shown."""

import os
import ssl
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import trustme
from cryptography import x509
from pydantic import SecretStr

from docora_ops.actions import Docora as Api
from docora_ops.actions.checks import CheckState
from docora_ops.errors import HostFaultError
from docora_ops.worker.probe import probe
from tests.support.docora import Docora, Result
from tests.support.git_over_http import GitHandler, GitSite, basic
from tests.support.proxy import patience, refused_port
from tests.support.raw_app import RawApp, Talk, raw_app
from tests.support.read_only import frozen, read_only
from tests.support.receiver import Receiver
from tests.support.snapshots import KEY, TOKEN, Snapshots, Upstream, encrypt
from tests.support.terminal import assert_inert
from tests.support.worker_processes import git_processes, memory_limit_of

HERE = f"Probed from {os.uname().nodename}; a worker elsewhere may see otherwise.\n"
NOT_FOUND = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def app_id(docora: Docora) -> str:
    return docora.add_app()


def answering(
    answer: str, requests: list[str] | None = None, tls: ssl.SSLContext | None = None
) -> AbstractContextManager[RawApp]:
    def talk(talk: Talk) -> None:
        while data := talk.read_some(1 << 16):
            (requests if requests is not None else []).append(data.decode())
            talk.send(answer.encode())

    return raw_app(Receiver(), talk, tls=tls)


def run(docora: Docora, *arguments: str, url: str | None = None, **env: str) -> Result:
    if url is not None:
        docora.connection.execute("UPDATE apps SET base_url = %s", (url,))
    return docora.run("probe", *arguments, env=env)


def valid_until(year: int, authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    end = datetime(year, 1, 1, tzinfo=UTC)
    authority.issue_cert("127.0.0.1", not_after=end).configure_cert(context)
    return context


def issuer_of(authority: trustme.CA) -> str:
    return x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject.rfc4514_string()


def told(result: Result) -> list[tuple[str, str, str]]:
    steps = result.data["steps"]
    return [(step["name"], step["state"], step["finding"]) for step in steps]


def test_an_app_is_reached_by_an_unsigned_head_and_nothing_is_written(
    docora: Docora, app_id: str, authority: trustme.CA, tmp_path: Path
) -> None:
    requests: list[str] = []
    with answering(NOT_FOUND, requests, valid_until(2099, authority)) as app:
        url = f"https://kim:geheim@{app.host}/hook/?key=secret-of-the-query"
        docora.connection.execute("UPDATE apps SET base_url = %s", (url,))
        env = {**read_only(docora), "NODE_EXTRA_CA_CERTS": str(tmp_path / "ca.pem")}
        with frozen(docora):
            as_json, as_text = (run(docora, app_id, *more, **env) for more in (["--json"], []))
    port = app.host.partition(":")[2]
    dns, tcp, tls, http = told(as_json)
    assert dns == ("dns", "ok", "127.0.0.1: 127.0.0.1")
    assert tcp == ("tcp", "ok", f"connected to 127.0.0.1 port {port}")
    signed = f"TLSv1.3, signed by {issuer_of(authority)}, valid until 2099-01-01"
    assert tls == ("tls", "ok", signed)
    assert http == ("http", "ok", "HTTP 404: reached; only POST tells")
    line, *headers = requests[0].rstrip().split("\r\n")
    assert line == "HEAD /hook/?key=secret-of-the-query HTTP/1.1"
    assert f"Authorization: {basic('kim', 'geheim')}" in headers
    assert "Docora-Signature" not in requests[0]
    assert (as_json.code, as_text.code, as_text.stderr) == (0, 0, HERE)
    assert as_json.data["base_url"] == f"https://***@{app.host}/hook/?***"
    assert "Step\tState\tFound\tSeconds\ndns\tok\t127.0.0.1: 127.0.0.1\t0." in as_text.stdout
    shown = f"{as_json}{as_text}"
    assert [each for each in ("geheim", "secret-of-the-query") if each in shown] == []


def test_the_role_for_monitoring_may_probe_apps(docora: Docora, app_id: str) -> None:
    with answering(NOT_FOUND) as app:
        env = {"DATABASE_URL": docora.database_access.monitor}
        assert run(docora, app_id, url=app.base_url, **env).code == 0


def test_a_step_that_fails_is_the_last_and_a_refused_certificate_is_described(
    docora: Docora, app_id: str, authority: trustme.CA, tmp_path: Path
) -> None:
    trusted = {"NODE_EXTRA_CA_CERTS": str(tmp_path / "ca.pem")}
    issuer, refused = issuer_of(authority), refused_port()
    with (
        answering(NOT_FOUND, tls=valid_until(2099, authority)) as unknown,
        answering(NOT_FOUND, tls=valid_until(2024, authority)) as old,
        raw_app(Receiver(), Talk.close) as closing,
    ):
        for url, env, name, finding in (
            ("ftp://acme.example", {}, "url", "the app's base_url is not an http or https URL"),
            ("https://acme.invalid/hook", {}, "dns", "acme.invalid: "),
            (f"http://127.0.0.1:{refused}", {}, "tcp", f"127.0.0.1:{refused}: Connection refused"),
            (
                unknown.base_url,
                {},
                "tls",
                f"the certificate of {unknown.host} is not valid: unable to get local issuer "
                f"certificate, signed by {issuer}, valid until 2099-01-01",
            ),
            (
                old.base_url,
                trusted,
                "tls",
                f"the certificate of {old.host} has expired, signed by {issuer}, valid until "
                "2024-01-01",
            ),
            (  # which OpenSSL calls that of an unknown authority
                old.base_url,
                {},
                "tls",
                f"the certificate of {old.host} has expired, signed by {issuer}, valid until "
                "2024-01-01",
            ),
            (f"http://{closing.host}/", {}, "http", f"{closing.host}: "),
        ):
            result = run(docora, app_id, "--json", url=url, **env)
            last = told(result)[-1]
            assert (result.code, last[:2]) == (6, (name, "critical")), url
            assert last[2].startswith(finding), last
            assert {state for _, state, _ in told(result)[:-1]} <= {"ok"}
            hint = str(result.data["steps"][-1]["hint"])
            assert ("must renew its certificate" in hint) == ("expired" in finding), last
            assert ("set NODE_EXTRA_CA_CERTS" in hint) == ("not valid" in finding), last


def test_the_steps_to_an_app_have_the_time_of_a_delivery_in_all(
    docora: Docora, app_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(talk: Talk) -> None:
        talk.read_head()
        end = time.monotonic() + patience()
        while time.monotonic() < end and not talk.over.wait(0.05):
            talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    monkeypatch.setattr("docora_ops.worker.probe.DELIVERY_TIMEOUT", 0.5)
    with raw_app(Receiver(), drip) as app, Api(docora.settings) as api:
        docora.connection.execute("UPDATE apps SET base_url = %s", (app.base_url,))
        begun = time.monotonic()
        step = probe(api, app_id).steps[-1]
        assert time.monotonic() - begun < patience() / 2, "it was the app that ended it"
    assert (step.name, step.state) == ("http", CheckState.CRITICAL)
    assert step.finding == f"no answer from {app.host} within 0.5 s"


def test_a_permanent_redirect_has_a_hint_and_is_not_followed(docora: Docora, app_id: str) -> None:
    moved = "it has moved, and workers follow no redirects: docora-ops set-url"
    other = "Docora's own worker follows redirects, those of docora-ops do not: ask whoever runs "
    new = "https://new.example/Acme"
    for status, location, query, hint in (
        (301, new, "", f"{moved} {app_id} {new}"),
        (308, f"{new}?a='b'", "", f"{moved} {app_id} URL"),
        (308, new, "?key=secret-of-the-query", f"{moved} {app_id} URL"),
        (301, f"{new}/", "", other),  # to a folder: says nothing of the paths below it
        (302, new, "", other),
        (301, "http://10.0.0.1/Acme", "", other),  # which Docora would refuse
    ):
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        with answering(answer) as app:
            result = run(docora, app_id, "--json", url=app.base_url + query)
            step = result.data["steps"][-1]
            assert (step["state"], result.code) == ("warning", 0), location
            assert step["hint"] == hint or (hint == other and step["hint"].startswith(other))
            assert step["finding"].startswith(f"HTTP {status}")
            assert "secret-of-the-query" not in str(result)


@pytest.mark.slow
def test_each_answer_says_what_it_means_and_who_can_mend_it(docora: Docora, app_id: str) -> None:
    whoever, log = "whoever runs the app must", "look into its log"
    for status, state, part in (
        (204, "ok", None),
        (401, "warning", f"if links fail with HTTP 401, {whoever} say which USER:PASSWORD@"),
        (403, "warning", f"if links fail with HTTP 403, {whoever} let the workers' address pass"),
        (404, "ok", "note"),
        (407, "warning", "whoever runs the workers must put USER:PASSWORD@ into the URL of the pr"),
        (413, "warning", f"{whoever} raise the limit of the app or of its gateway"),
        (500, "warning", f"{whoever} {log}"),
        (501, "warning", f"if links fail with HTTP 501, {whoever} {log}"),
        (502, "warning", f"down, overloaded or too slow: {whoever} see to it"),
    ):
        interim = "HTTP/1.1 103 Early Hints\r\n\r\n"
        with answering(f"{interim}HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n") as app:
            result = run(docora, app_id, "--json", url=app.base_url)
        step, note = result.data["steps"][-1], ": reached; only POST tells" * (part == "note")
        told = (result.code, step["state"], step["finding"])
        assert told == (0, state, f"HTTP {status}{note}"), status
        assert part in {None, "note"} or part in step["hint"], step
        assert (step["hint"] is None) == (state == "ok"), step


def test_a_host_without_a_usable_temporary_folder_is_told_so(
    docora: Docora, app_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    docora.link(app_id, docora.add_repository("octo/api"))
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    settings = docora.settings.model_copy(update={"encryption_key": SecretStr(KEY.hex())})
    with (
        Api(settings) as api,
        pytest.raises(HostFaultError, match="for git to a temporary folder: No such file"),
    ):
        probe(api, app_id, "octo/api")


@pytest.mark.slow
def test_the_authorities_of_an_env_file_are_trusted_as_a_worker_trusts_them(
    snapshots: Snapshots, upstream: Upstream, authority: trustme.CA, tmp_path: Path
) -> None:
    docora, tls, file = snapshots.docora, valid_until(2099, authority), tmp_path / "docora.env"
    words: Sequence[str] = ["--env-file", str(file)]
    env = {"DOCORA_OPS_GIT_PROTOCOLS": "https"}
    with (
        answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", tls=tls) as app,
        GitSite(snapshots.folder / "upstream", tls=tls).serving() as site,
    ):
        [app_id] = links_with(snapshots, site, None)
        docora.connection.execute("UPDATE apps SET base_url = %s", (app.base_url,))
        for name, trusted in (
            ("NODE_EXTRA_CA_CERTS", {"tls", "git"}),
            ("SSL_CERT_FILE", {"tls"}),
            ("GIT_SSL_CAINFO", {"git"}),
        ):
            lines = {
                "DATABASE_URL": docora.database_access.command,
                "REDIS_URL": docora.redis_access.command,
                name: tmp_path / "ca.pem",
            }
            file.write_text("".join(f"{key}='{value}'\n" for key, value in lines.items()))
            file.chmod(0o600)
            result = run(docora, app_id, "--repo", "octo/api", "--json", *words, **env)
            states = {step["name"]: step["state"] for step in result.data["steps"]}
            assert {each for each in ("tls", "git") if states[each] == "ok"} == trusted, result
        file.write_text(file.read_text().replace("GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"))
        words = ["set-url", app_id, app.base_url, "--probe", "--dry-run", "--json", *words]
        docora.connection.execute(b"UPDATE apps SET base_url = 'https://old.example'")
        steps = docora.run(*words, env=env | {"NODE_ENV": "dev"}).data["probe"]["steps"]
        assert [step["state"] for step in steps] == ["ok"] * 4


def test_a_proxy_is_taken_as_a_worker_takes_it(docora: Docora, app_id: str) -> None:
    requests: list[str] = []
    with answering("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", requests) as proxy:
        env = {"http_proxy": f"http://user:geheim@{proxy.host}"}
        result = run(docora, app_id, "--json", url="http://acme.invalid/hook", **env)
    assert requests[0].startswith("HEAD http://acme.invalid/hook HTTP/1.1\r\n")
    dns, *_, http = told(result)
    assert dns[2] == "proxy 127.0.0.1: 127.0.0.1"
    assert http == ("http", "warning", "HTTP 407, through the proxy")
    assert "geheim" not in str(result)


# git


def links_with(snapshots: Snapshots, site: GitSite, *tokens: str | None) -> Sequence[str]:
    """Links of as many new apps to the site's repository; returns the apps' ids."""
    repository = snapshots.docora.add_repository("octo/api", url=f"{site.url}/octo/api")
    links = [snapshots.link(snapshots.add_app(f"App {n}"), repository) for n in range(len(tokens))]
    for link, token in zip(links, tokens, strict=True):
        snapshots.docora.set_link(link, github_token_encrypted=token)
    return [link.app_id for link in links]


def test_branches_are_listed_with_each_token_as_the_job_of_its_link_would(
    snapshots: Snapshots, site: GitSite, upstream: Upstream
) -> None:
    site.token = TOKEN
    good, bad, foreign = encrypt(TOKEN), encrypt("wrong-token"), encrypt(TOKEN, bytes(32))
    ids = links_with(snapshots, site, good, None, bad, foreign, encrypt(TOKEN))
    env = {"ENCRYPTION_KEY": KEY.hex(), "DOCORA_OPS_GIT_PROTOCOLS": "http"}
    with frozen(snapshots.docora):
        result = run(snapshots.docora, "--repo", "octo/api", "--json", **env).ended(6)
    steps: list[Any] = result.data["steps"]
    assert [(step["state"], step["app_ids"]) for step in steps] == [
        ("ok", [ids[0], ids[4]]),
        ("critical", [ids[1]]),
        ("critical", [ids[2]]),
        ("critical", [ids[3]]),
    ]
    assert steps[0]["finding"] == f"with the token of App 0, App 4: main at {upstream.head[:12]}"
    assert steps[1]["finding"].startswith("without a token, for App 1: fatal: could not read")
    assert steps[2]["finding"].startswith("with the token of App 2: fatal: Authentication failed")
    assert "was encrypted with another ENCRYPTION_KEY" in steps[3]["finding"]
    assert {basic(TOKEN), basic("wrong-token")} <= set(site.logins)
    assert TOKEN not in f"{result}{site.paths}"
    of_app = run(snapshots.docora, ids[0], "--repo", "octo/api", "--json", **env).ended(0)
    assert [step["name"] for step in of_app.data["steps"]] == ["dns", "tcp", "http", "git"]
    assert of_app.data["steps"][-1]["app_ids"] == [ids[0]]


def test_a_server_that_repeats_the_token_does_not_show_it(
    snapshots: Snapshots, site: GitSite
) -> None:
    site.intercept = GitHandler.echo
    links_with(snapshots, site, encrypt(TOKEN))
    env = {"ENCRYPTION_KEY": KEY.hex(), "DOCORA_OPS_GIT_PROTOCOLS": "http"}
    result = run(snapshots.docora, "--repo", "octo/api", **env)
    assert (result.code, TOKEN in str(result)) == (6, False)
    assert_inert(result.stdout.replace("\t", " "))


def test_git_has_the_memory_of_a_job(snapshots: Snapshots, site: GitSite) -> None:
    limits: set[int] = set()

    def look(_: GitHandler) -> bool:
        limits.update(memory_limit_of(pid) for pid in git_processes(site))
        return True

    site.intercept = look
    links_with(snapshots, site, None)
    changes = {"git_protocols": "http", "binary_chunk_size_bytes": 1 << 20}
    before = memory_limit_of(os.getpid())
    with Api(snapshots.docora.settings.model_copy(update=changes)) as api:
        probe(api, repository="octo/api")
    assert limits == {(2 << 30) + (4 << 20)}
    assert memory_limit_of(os.getpid()) == before


def test_git_has_the_time_of_a_job(snapshots: Snapshots, site: GitSite) -> None:
    has_ended = Event()
    site.intercept = lambda _: has_ended.wait(patience()) and False
    links_with(snapshots, site, None)
    changes = {"git_protocols": "http", "git_timeout": 1}
    with Api(snapshots.docora.settings.model_copy(update=changes)) as api:
        [step] = probe(api, repository="octo/api").steps
        has_ended.set()
    assert step.finding.endswith("git ls-remote took longer than 1 s")


# What is refused


def test_what_can_not_be_probed_is_told_by_exit_codes_of_other_commands(docora: Docora) -> None:
    link = docora.add_link()
    other = docora.add_app("Tin Robot")
    cases: Sequence[tuple[Sequence[str], int]] = (
        ([], 2),
        (["nobody"], 3),
        (["--repo", "octo/none"], 3),
        ([other, "--repo", link.repository_id], 3),
        (["--repo", link.repository_id], 2),  # its token needs ENCRYPTION_KEY
    )
    for arguments, code in cases:
        assert run(docora, *arguments).code == code, arguments
    without_git = run(docora, "--repo", link.repository_id, PATH="/nowhere")
    assert (without_git.code, "git is not on PATH" in without_git.stderr) == (2, True)
    monitor = {"DATABASE_URL": docora.database_access.monitor}
    run(docora, "--repo", link.repository_id, **monitor).ended(5, says="permission denied")
