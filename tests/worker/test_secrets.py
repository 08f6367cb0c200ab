"""Tokens, keys and passwords: decrypted where they are needed, and shown nowhere."""

import base64
import traceback

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rq.job import JobStatus
from rq.timeouts import JobTimeoutException

from docora_ops.encryption import decrypt
from docora_ops.errors import DocoraOpsError, SnapshotError
from docora_ops.worker.secrets import Cleaner
from tests.support.git_over_http import GitHandler, GitSite
from tests.support.proxy import refused_port
from tests.support.receiver import Request
from tests.support.rows import TestLink
from tests.support.snapshots import AUTH_KEY, KEY, TOKEN, Snapshots, encrypt
from tests.support.worker_processes import all_processes, command_line
from tests.worker.jobs import run_job

PASSWORD = "a-very-secret-password-of-the-database"
APP_PASSWORD = "the-very-secret-password-of-an-app"
ANOTHER_KEY = "can't be decrypted: it was encrypted with another ENCRYPTION_KEY"
NO_FORM = "is not in the form iv:tag:ciphertext"


def test_what_docora_has_encrypted_is_decrypted_and_nothing_else() -> None:
    for each in ("", "ghp_token", "ümläut \U0001f511"):
        assert (
            decrypt(encrypt(each), KEY, "it") == decrypt(encrypt(each).upper(), KEY, "it") == each
        )
    iv, tag, text = encrypt(AUTH_KEY).split(":")
    sealed = AESGCM(KEY).encrypt(bytes(16), b"\xff\xfe", None)
    for broken, reason in (
        (AUTH_KEY, NO_FORM),
        (f"{iv}:{tag}:{text}:", NO_FORM),
        (f"{iv}:{tag}:{text[:-1]}", NO_FORM),
        (f"{iv}:{tag}:{text}\n", NO_FORM),
        (f"{iv}:{tag}:{int(text[:2], 16) ^ 1:02x}{text[2:]}", ANOTHER_KEY),
        (encrypt(AUTH_KEY, bytes(32)), ANOTHER_KEY),
        (f"{bytes(16).hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}", ANOTHER_KEY),
    ):
        with pytest.raises(DocoraOpsError) as caught:
            decrypt(broken, KEY, "it")
        assert caught.value.message == f"it {reason}"


def test_secrets_are_cut_out_of_what_is_said() -> None:
    cleaner = Cleaner()
    cleaner.learn(["key", "key-and-more", None, ""])
    assert cleaner.clean("a key-and-more, a key") == "a ***, a ***"
    assert cleaner.clean("Basic a2V5Og==") == "Basic ***"
    assert cleaner.clean("at https://user:geheim@host/x") == "at https://***@host/x"
    assert cleaner.clean("\0\ud800") == "\ufffd?"
    assert cleaner.clean("x" * 1000) == "x" * 1000
    assert cleaner.clean("x" * 1001) == "x" * 999 + "…"
    assert cleaner.clean("x" * 998 + "key") == "x" * 998 + "*…"


def fail_in_every_way(snapshots: Snapshots, url: str) -> dict[str, TestLink]:
    """Links whose jobs fail, each for a reason of its own; `url`: of a server that echoes."""
    upstream = snapshots.add_upstream("octo/good")
    upstream.commit({"a": "1", "b": "1"})
    good = snapshots.add_repository(upstream, "octo/good")
    repositories = {
        "Echoed": snapshots.docora.add_repository("octo/echo", url=f"{url}/octo/echo"),
        "Forbidden": snapshots.docora.add_repository("octo/y", url=f"https://{TOKEN}@x.example/y"),
    }
    down = f"http://user:{APP_PASSWORD}@127.0.0.1:{refused_port()}?key={APP_PASSWORD}"
    links = {}
    for name in (*repositories, "Down", "Refusing", "Unrecorded", "Other", "Plain"):
        app_id = snapshots.add_app(name, base_url=down if name == "Down" else None)
        links[name] = snapshots.link(app_id, repositories.get(name, good))
        snapshots.set_token(links[name], TOKEN)
    snapshots.docora.set_link(links["Other"], github_token_encrypted=encrypt(TOKEN, bytes(32)))
    snapshots.docora.connection.execute(
        "UPDATE apps SET client_auth_key_encrypted = %s WHERE app_name = 'Plain'", (AUTH_KEY,)
    )
    snapshots.docora.add_trigger(
        f"RAISE EXCEPTION 'not for postgres://u:{PASSWORD}@h/d'",
        when=f"NEW.app_id = '{links['Unrecorded'].app_id}'",
        event="BEFORE INSERT ON app_delivered_files",
    )
    return links


def test_no_job_that_fails_shows_a_secret(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    seen: set[str] = set()

    def answer(request: Request) -> int:
        seen.update(map(command_line, all_processes()))
        return 500 if request.app == "Refusing" else 200

    def watch(handler: GitHandler) -> bool:
        seen.update(map(command_line, all_processes()))
        return handler.echo()

    snapshots.receiver.answer = answer
    with GitSite(snapshots.folder / "none", intercept=watch).serving() as site:
        links = fail_in_every_way(snapshots, site.url)
        for link in links.values():
            snapshots.queue(link)
        changes = {"CIRCUIT_BREAKER_THRESHOLD": "1", "MAX_RETRY_ATTEMPTS": "1"}
        result = snapshots.work(**changes).ended(0)
        assert any("git" in line and site.url in line for line in seen)
        login = base64.b64encode(f"{TOKEN}:".encode()).decode()
        assert f"Basic {login}" in site.logins

    errors = {name: docora.row(link)["last_error"] for name, link in links.items()}
    for name, reason in {
        "Echoed": "I do not like ***",
        "Forbidden": "the URL 'https://***@x.example/y' uses https: allowed is file, http",
        "Down": "Connection refused on created a",
        "Refusing": "HTTP 500 on created a",
        "Unrecorded": "refuses: not for postgres://***@h/d",
        "Other": f"the GitHub token {ANOTHER_KEY}",
        "Plain": f"the app's auth key {NO_FORM}",
    }.items():
        assert reason in errors[name]
        assert docora.status(links[name]) == "failed"
        assert docora.job(links[name]).get_status() is JobStatus.FAILED

    requests = [each for app in snapshots.receiver.apps.values() for each in app.requests]
    told = [request.body.decode() for request in requests if request.event == "sync_failed"]
    assert told
    results = [docora.job(link).latest_result() for link in links.values()]
    redis = "\n".join(str(result and result.exc_string) for result in results)
    assert "SnapshotError: HTTP 500 on created a" in redis
    places = {
        "stderr": result.stderr,
        "last_error": "\n".join(errors.values()),
        "Redis": redis,
        "sync_failed": "\n".join(told),
        "the process list": "\n".join(seen),
    }
    app_login = base64.b64encode(f"user:{APP_PASSWORD}".encode()).decode()
    secrets = {TOKEN, AUTH_KEY, PASSWORD, APP_PASSWORD, KEY.hex(), app_login, login}
    for place, text in places.items():
        assert [secret for secret in secrets if secret in text] == [], place


def test_a_job_whose_time_is_up_while_it_writes_its_verdict_shows_no_secret(
    snapshots: Snapshots, site: GitSite, link: TestLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_is_up(*_: object, **__: object) -> None:
        raise JobTimeoutException("Task exceeded maximum timeout value")

    monkeypatch.setattr("docora_ops.database.scans.fail", time_is_up)
    site.intercept = GitHandler.echo
    snapshots.set_token(link, TOKEN)
    with pytest.raises(SnapshotError, match="was up while it failed") as caught:
        run_job(snapshots, link)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert snapshots.docora.status(link) == "scanning"  # which counts as a failure later
