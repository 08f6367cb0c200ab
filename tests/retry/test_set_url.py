"""`set-url`: the rules of Docora's onboarding, the row, the audit entry, and jobs of BullMQ."""

import json
import shlex
import time
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from docora_ops.actions import Docora as Api
from docora_ops.actions.app_url import refusal_of, set_url
from docora_ops.errors import PostgresError, RedisError
from tests.support.bullmq import Bullmq
from tests.support.docora import Docora, Result
from tests.support.privileges import block
from tests.support.proxy import Fault, Proxy, patience, refused_port
from tests.support.raw_app import Talk, raw_app
from tests.support.read_only import frozen, read_only
from tests.support.receiver import Receiver
from tests.support.rows import TestLink
from tests.support.terminal import on_terminal

OLD, NEW = "https://acme.example/docora", "https://new.example/hook"
HOUR = timedelta(hours=1)
GRANT = "GRANT UPDATE (base_url, updated_at) ON apps"
SECRETS = "https://kim:geheim@old.example/hook?key=secret-of-the-query"


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """The link of an app, and the grant of the topic that `set-url` needs."""
    grant(docora)
    return docora.link(docora.add_app(), docora.add_repository())


def grant(docora: Docora) -> None:
    docora.connection.execute(block(GRANT).replace("docora_ops", docora.role).encode())


def resync_after(changed: Result) -> str:
    """Returns the command that sends the files of the links to resync again."""
    command: str = changed.data["next_commands"][0]
    assert changed.data["scanned_since"] in command
    return command


def app_row(docora: Docora) -> dict[str, Any]:
    [row] = docora.connection.execute("SELECT base_url, updated_at FROM apps").fetchall()
    return row


# What Docora 1.3.0 answers to each with `NODE_ENV=production`: its schema of zod, then isUrlSafe.
VALID, HTTPS = "it is not a valid URL", "it must begin with https://"
LOCAL, PRIVATE = "localhost is not allowed", "private IP addresses are not allowed"
TOO_LONG = "it has more than 2,048 characters"
BY_ANSWER: dict[str | None, tuple[str, ...]] = {
    None: (
        *(NEW, "https://localhost./", "https://[::1]/", "https://172.15.0.1", "https://172.32.0.1"),
        *("https://8.8.8.8/", "https://10.0.0.1@acme.example/", "https://1e2/"),
        *("https://b\u00fccher.example/", "https://acme.example:/?token=x#y"),
        *(f"https://acme.example/{'a' * 2027}", f"https://acme.example/{chr(0x1F600) * 1013}"),
    ),
    HTTPS: ("http://acme.example/hook", "HTTPS://acme.example/", "ftp://a.example"),
    LOCAL: (
        *("https://localhost/x", "https://LOCALHOST:8443", "https://0.0.0.0/", "https://0/"),
        "https://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/",
    ),
    PRIVATE: (
        *("https://127.0.0.1", "https://127.0.0.1./", "https://127.1/", "https://0x7f.1/"),
        *("https://0177.0.0.1/", "https://2130706433/", "https://10.1.2.3", "https://172.16.0.1"),
        *("https://10.example.com/", "https://172.31.0.1", "https://192.168.0.1"),
        *("https://169.254.169.254/", "https://user:pw@10.0.0.1:443/", "https://%31%30.0.0.1/"),
        "https://10\u30020.0.1/",
    ),
    VALID: (
        *("https://300.0.0.1/", "https://08.0.0.1/", "https://foo.1/", "https://a b.example/"),
        *("https://a%00b/", "https://a|b/", "https://[::1", "https://[fe80::1%25eth0]/"),
        *("https://x:y@/", "https://", "acme.example", "https://acme.example:99999/"),
    ),
    TOO_LONG: (
        *(f"https://acme.example/{'a' * 2028}", f"https://acme.example/{chr(0x1F600) * 1014}"),
    ),
}
ANSWERS = {url: answer for answer, urls in BY_ANSWER.items() for url in urls}
STRICTER = ("https://a\\@10.0.0.1/", "https://a\t.example/", "https:///10.0.0.1/")
"""Docora takes the first two, and refuses the third for its address."""


def test_a_url_is_judged_as_docora_judges_it_where_an_app_is_registered() -> None:
    found = {url: refusal_of(url, is_dev=False) for url in ANSWERS}
    assert found == ANSWERS
    for url, answer in ANSWERS.items():
        if answer != HTTPS:
            in_dev = answer if answer in {VALID, TOO_LONG} else None
            assert refusal_of(url, is_dev=True) == in_dev, url
    assert refusal_of("http://10.0.0.1/", is_dev=True) is None
    for url in ("HTTP://a.example", "ftp://a.example"):
        assert refusal_of(url, is_dev=True) == "it must begin with https:// or http://"
    for url in STRICTER:
        assert refusal_of(url, is_dev=False) == VALID


def test_a_refused_url_is_exit_code_2_and_node_env_is_read(docora: Docora, link: TestLink) -> None:
    refused = docora.run("set-url", link.app_id, "http://kim:geheim@10.0.0.1/hook")
    assert (refused.code, refused.stderr) == (
        2,
        "Error: Docora would refuse the URL http://***@10.0.0.1/hook: it must begin with https://\n"
        "Hint: set NODE_ENV=dev if Docora runs with it, which allows http and private addresses\n",
    )
    assert app_row(docora)["base_url"] == OLD
    taken = docora.run("set-url", link.app_id, "http://10.0.0.1/hook", env={"NODE_ENV": "dev"})
    assert taken.code == 0, taken
    assert app_row(docora)["base_url"] == "http://10.0.0.1/hook"


def test_url_and_time_are_set_and_the_audit_has_both_urls(docora: Docora, link: TestLink) -> None:
    docora.connection.execute("UPDATE apps SET base_url = %s", (SECRETS,))
    before = app_row(docora)
    changed = docora.run("set-url", "acme search", NEW, "--reason", "moved", "--json").ended(0)
    after = app_row(docora)
    assert after["base_url"] == NEW
    assert after["updated_at"] > before["updated_at"]
    [entry] = docora.audit_entries()
    shown = {"old_url": "https://***@old.example/hook?***", "new_url": NEW}
    names = {"app_id": link.app_id, "app_name": "Acme Search"}
    assert json.loads(entry["selection"]) == names | shown
    assert (entry["command"], entry["reason"], entry["event"]) == ("set-url", "moved", "done")
    counted = {
        "jobs_with_old_url": 0,
        "links_to_resync": [],
        "scanned_since": None,
        "has_failed_links": True,
        "next_commands": [f"docora-ops retry-all-failed --app {link.app_id}"],
        "probe": None,
    }
    assert changed.data == names | shown | counted | {"changed": True, "dry_run": False}
    history = docora.run("history", "--app", "Acme Search")
    assert f"set-url 'Acme Search' {NEW}\twas {shown['old_url']}\t" in history.stdout
    text = f"{changed}{history}{docora.audit_entries()}"
    assert [each for each in ("geheim", "secret-of-the-query") if each in text] == []


def test_a_document_repeats_the_command_without_the_secrets_of_the_url(
    docora: Docora, link: TestLink
) -> None:
    for url in (SECRETS, SECRETS.replace("https", "http")):
        result = docora.run("set-url", link.app_id, url, "--dry-run", "--json")
        assert "://***@old.example/hook?***' --dry-run" in result.stdout
        unquoted = docora.run("set-url", "Acme", "Search", url, "--json")
        assert "unexpected extra argument(s) (http" in unquoted.stderr
        text = f"{result}{unquoted}"
        assert [each for each in ("geheim", "secret-of-the-query") if each in text] == []


def test_the_same_url_and_a_dry_run_change_nothing(docora: Docora, link: TestLink) -> None:
    with frozen(docora):
        same = docora.run("set-url", link.app_id, OLD, "--probe")
        assert (same.code, "nothing to do, the app has this URL" in same.stderr) == (0, True)
        planned = docora.run("set-url", "Acme", NEW, "--dry-run", env=read_only(docora)).ended(0)
        assert f"Old URL\t{OLD}\nNew URL\t{NEW}\n" in planned.stdout
        assert "dry run, nothing was changed" in planned.stderr


def test_without_redis_nothing_is_changed(docora: Docora, link: TestLink) -> None:
    env = {"REDIS_URL": f"redis://127.0.0.1:{refused_port()}"}
    planned = docora.run("set-url", link.app_id, NEW, "--dry-run", env=env)
    assert (planned.code, "jobs that keep the old URL can't" in planned.stderr) == (0, True)
    assert docora.run("set-url", link.app_id, NEW, env=env).code == 5
    assert app_row(docora)["base_url"] == OLD


def test_a_redis_that_does_not_answer_locks_the_row_for_five_seconds_at_most(
    docora: Docora, link: TestLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docora_ops.queue.redis_client.LONGEST_TIMEOUT", 0.2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        changes = {"redis_url": SecretStr(proxy.url), "statement_timeout": round(patience())}
        settings = docora.settings.model_copy(update=changes)
        proxy.plan(b"XADD", Fault.HOLD_REQUEST)
        begun = time.monotonic()
        with Api(settings) as api, pytest.raises(RedisError):
            list(set_url(api, link.app_id, NEW))
        assert time.monotonic() - begun < patience() / 2
    assert app_row(docora)["base_url"] == OLD
    assert docora.audit_entries() == []


@pytest.mark.slow
def test_the_grant_of_its_own_is_needed_and_may_be_left_out(docora: Docora) -> None:
    app_id = docora.add_app()
    both = ["base_url", "updated_at"]
    for missing in (both, both[:1], both[1:]):
        grant(docora)
        columns = f"({', '.join(missing)})"
        docora.connection.execute(f"REVOKE UPDATE {columns} ON apps FROM {docora.role}".encode())
        refused = docora.run("set-url", app_id, NEW)
        assert (refused.code, "permission denied for table apps" in refused.stderr) == (5, True)
        assert "docora-ops help privileges" in refused.stderr
        assert app_row(docora)["base_url"] == OLD
        assert docora.audit_entries() == []
    assert "privileges" not in docora.run("doctor").stdout


def test_a_probe_that_fails_keeps_the_old_url(docora: Docora, link: TestLink) -> None:
    env = {"NODE_ENV": "dev"}
    down = f"http://127.0.0.1:{refused_port()}/hook"
    refused = docora.run("set-url", link.app_id, down, "--probe", "--json", env=env)
    assert (refused.code, refused.data["changed"]) == (6, False)
    steps = [(step["name"], step["state"]) for step in refused.data["probe"]["steps"]]
    assert steps == [("dns", "ok"), ("tcp", "critical")]
    assert (app_row(docora)["base_url"], docora.audit_entries()) == (OLD, [])

    def answer(talk: Talk) -> None:
        talk.read_head()
        talk.send(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    with raw_app(Receiver(), answer) as app:
        changed = docora.run("set-url", link.app_id, app.base_url, "--probe", env=env).ended(0)
    assert "http\tok\tHTTP 404: reached; only POST tells\t" in changed.stdout
    assert app_row(docora)["base_url"] == app.base_url


@pytest.mark.slow
def test_the_links_of_jobs_that_keep_the_old_url_are_named_with_the_resync_that_they_need(
    bullmq: Bullmq, docora: Docora, link: TestLink
) -> None:
    active = docora.link(link.app_id, docora.add_repository("octo/active"))
    bullmq.start(active)
    waiting, delayed, renewed = (
        docora.link(link.app_id, docora.add_repository(f"octo/repo{number}")) for number in range(3)
    )
    for each in (link, waiting, docora.add_link("pending_snapshot"), renewed):
        bullmq.add(each)
    bullmq.delay(delayed)
    docora.redis.hset(bullmq.key(renewed.job_id), "data", json.dumps({"base_url": NEW}))
    before = bullmq.kept_keys()
    planned = bullmq.run("set-url", link.app_id, NEW, "--dry-run", "--json").data
    changed = bullmq.run("set-url", link.app_id, NEW, "--json")
    left = {active.job_id, delayed.job_id, link.job_id, waiting.job_id}
    for data in (planned, changed.data):
        links = data["links_to_resync"]
        assert {f"{it['app_id']}-{it['repository_id']}" for it in links} == left
        assert data["jobs_with_old_url"] == 4
    assert (planned["scanned_since"], planned["has_failed_links"]) == (None, True)
    assert (
        "Warning: 4 links need a resync, because their jobs send files to the old URL (4 BullMQ "
        "jobs keep that URL) and then mark the links as synced: octo/active, " in changed.stderr
    )
    assert bullmq.kept_keys() == before

    # Docora's worker ends them, and dates the scans by its clock, which is behind.
    command = resync_after(changed)
    assert f"Next, once these jobs have ended: {command}\n" in changed.stderr
    docora.connection.execute(
        "UPDATE app_repositories SET status = 'synced', last_scanned_at = now() - interval '15 s'"
        " WHERE app_id || '-' || repository_id = ANY (%s)",
        (sorted(left),),
    )
    docora.redis.delete(*docora.redis.scan_iter("bull:*"))
    docora.redis.set("bull:snapshot-queue:id", 1)
    planned = docora.run(*shlex.split(command)[1:], "--dry-run", "--json", env=bullmq.environment())
    assert {each["job_id"] for each in planned.data["planned_links"]} == left


def test_the_running_jobs_of_docora_ops_count_too(docora: Docora, link: TestLink) -> None:
    docora.set_link(link, status="scanning")
    before = docora.link(link.app_id, docora.add_repository("octo/before"), "synced", scanned=HOUR)
    changed = docora.run("set-url", link.app_id, NEW, "--json")
    assert [each["repository_id"] for each in changed.data["links_to_resync"]] == [
        link.repository_id
    ]
    assert changed.data["jobs_with_old_url"] == 0
    assert (
        "Warning: 1 link needs a resync, because its job sends files to the old URL and then marks "
        "the link as synced: octo/api.\n" in changed.stderr
    )
    # The job ends at the old URL.
    docora.set_link(link, status="synced", last_scanned_at=docora.one("SELECT now()"))
    planned = docora.run(*shlex.split(resync_after(changed))[1:], "--dry-run", "--json")
    assert [each["job_id"] for each in planned.data["planned_links"]] == [link.job_id], before


def test_links_that_can_not_be_read_after_the_change_do_not_conceal_it(
    docora: Docora, link: TestLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise PostgresError("Postgres can't be reached")

    monkeypatch.setattr("docora_ops.actions.app_url.links_of_old_url", lost)
    with Api(docora.settings) as api:
        assert [step.changed for step in set_url(api, link.app_id, NEW)] == [True, True]
        assert "can't be read: Postgres can't be reached" in str(api.notices)
    assert app_row(docora)["base_url"] == NEW


def test_a_terminal_is_told_which_jobs_keep_the_old_url(bullmq: Bullmq, link: TestLink) -> None:
    docora, env = bullmq.docora, bullmq.environment()
    bullmq.add(link)
    docora.connection.execute("UPDATE repositories SET name = E'api\\x1b[5m'")
    command = ["set-url", "Acme", NEW]
    with frozen(docora):
        code, shown = on_terminal(docora, command, answer=b"n\n", env=env)
    assert code == 130
    assert "\x1b[5m" not in shown
    assert r"octo/api\x1b[5m" in shown
    question = f"change the base_url of Acme Search from {OLD} to {NEW}? [y/N]"
    assert question in " ".join(shown.split())
    code, shown = on_terminal(docora, command, answer=b"y\n", env=env)
    assert (code, shown.count("1 link needs a resync")) == (0, 2)
    assert bullmq.run("set-url", link.app_id, f"{NEW}/2", "--json").data["jobs_with_old_url"] == 1
    same = bullmq.run("set-url", link.app_id, f"{NEW}/2", "--json")
    assert (same.data["jobs_with_old_url"], same.data["links_to_resync"]) == (0, [])
