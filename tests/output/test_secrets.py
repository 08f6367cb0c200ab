"""Secrets in every place where one can be, and none in what comes out, nor in a core dump."""

import os
import resource
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from signal import SIGABRT
from urllib.parse import quote, urlsplit
from zlib import compress

import pytest

from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora, Result, finish
from tests.support.proxy import Proxy, refused_port
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink
from tests.support.stored_texts import redis_texts, watching_sessions

POSTGRES = "pg-s3cr3t @:/?#%&=+é"
REDIS = "redis-s3cr3t @:/?#%&=+é"
KEY = "5ec4e7" * 10 + "0123"
ENCRYPTED = ":".join((32 * "a", 32 * "b", 40 * "c"))
TOKEN = "ghp_s3cr3ts3cr3ts3cr3t"
ERROR = (
    f"fatal: unable to access 'https://{TOKEN}@github.com/octo/api/': 403; {TOKEN} is no more; "
    f"postgres://docora:url-s3cr3t@db/docora?password=option-s3cr3t refused; "
    f"https://x.example/a?access_token=option-s3cr3t&page=2 refused; {ENCRYPTED}"
)
SECRETS = ("s3cr3t", KEY, ENCRYPTED[-40:], GITHUB_TOKEN, AUTH_KEY)
"""Pieces of all of them; a password is searched for by what is the same in each way to write it."""
USER = "docora_ops_hostile"


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link whose URLs and error hold secrets, as the failure of its job does."""
    url = f"https://{TOKEN}@github.com/octo/api?token=option-s3cr3t"
    link = docora.link(
        docora.add_app("Acme"), docora.add_repository("octo/api", url=url), last_error=ERROR
    )
    docora.connection.execute("UPDATE apps SET base_url = 'https://u:url-s3cr3t@acme.example/x'")
    docora.redis.xadd(
        f"rq:results:{link.job_id}",
        {"type": "2", "exc_string": b64encode(compress(f"Traceback:\n{ERROR}".encode()))},
    )
    return link


@pytest.fixture
def env_file(docora: Docora, tmp_path: Path) -> Iterator[Path]:
    """With passwords that are needed: in the URL of one server, in an option of the other's."""
    docora.redis.acl_setuser(
        USER, enabled=True, passwords=[f"+{REDIS}"], keys=["*"], commands=["+@all"]
    )
    place = urlsplit(docora.redis_url).netloc.rpartition("@")[2]
    option = ("&" if "?" in docora.database_url else "?") + f"password={quote(POSTGRES, safe='')}"
    path = tmp_path / "docora.env"
    path.write_text(
        f"DATABASE_URL='{docora.database_url}{option}'\n"
        f"REDIS_URL='redis://{USER}:{quote(REDIS, safe='')}@{place}/"
        f"{urlsplit(docora.redis_url).path.strip('/')}'\n"
        f"ENCRYPTION_KEY={KEY}\n",
        encoding="utf-8",
    )
    yield path
    docora.redis.acl_deluser(USER)


def assert_no_secret(*texts: str) -> None:
    found = [
        (secret, text[max(0, text.index(secret) - 200) :][:400])
        for text in texts
        for secret in SECRETS
        if secret in text
    ]
    assert not found, found[0]


def test_no_command_shows_or_keeps_secrets(docora: Docora, link: TestLink, env_file: Path) -> None:
    ids = link.ids
    commands: tuple[tuple[str, ...], ...] = (
        ("failed", "--group-by", "error"),
        ("show", *ids),
        ("show", ids[0], f"https://{TOKEN}@github.com/octo/apix"),
        ("doctor",),
        ("metrics", "--by-app", "--by-error"),
        ("retry-all-failed", "--error", f"https://{TOKEN}@github.com"),
        ("retry", *ids, "--reason", f"{TOKEN} was withdrawn", "--wait", "--timeout", "1"),
        ("queue",),
        ("resync", ids[0], "--all", "--yes"),
        ("repair", *ids),
        ("history",),
        ("report",),
    )
    results: list[Result] = []
    env = ONE_LOOK | dict.fromkeys(("DATABASE_URL", "REDIS_URL"))
    with watching_sessions(docora) as seen:
        for command in commands:
            for options in [()] if command[0] == "metrics" else [(), ("--json",)]:
                docora.connection.execute(
                    "UPDATE app_repositories SET status = 'failed', last_error = %s", (ERROR,)
                )
                arguments = (*command, *options, "--env-file", str(env_file))
                results.append(docora.run(*arguments, env=env))
                assert results[-1].code in {0, 3, 6, 8}, results[-1]
    assert "***" in results[0].stdout
    assert any("retry-all-failed --error" in result.stdout for result in results)
    assert_no_secret(*(text for result in results for text in (result.stdout, result.stderr)))
    assert any("docora-ops" in text and "judged AS" in text for text in seen)
    assert_no_secret(*seen)
    stored = b"\n".join(redis_texts(docora, but=b"rq:results:")).decode(errors="replace")
    assert "octo/api → Acme" in stored
    assert_no_secret(stored)


@pytest.fixture
def powerless_user(docora: Docora) -> Iterator[str]:
    docora.redis.acl_setuser(
        USER, enabled=True, passwords=["+redis-s3cr3t"], keys=["*"], commands=["+ping", "+time"]
    )
    yield USER
    docora.redis.acl_deluser(USER)


@pytest.mark.slow
def test_no_driver_error_shows_secrets(docora: Docora, link: TestLink, powerless_user: str) -> None:
    docora.add_trigger(f"RAISE EXCEPTION 'row % of pg-s3cr3t, {TOKEN}, {ENCRYPTED}', 1")
    database = docora.database_url + ("&" if "?" in docora.database_url else "?")
    redis = urlsplit(docora.redis_url).netloc.rpartition("@")[2]
    closed = refused_port()
    with Proxy.before_postgres(docora.database_url) as plain:
        urls = {
            "DATABASE_URL": (
                f"postgres://u:pg-s3cr3t@127.0.0.1:{closed}/d",
                f"{plain.url}?sslmode=require&password=pg-s3cr3t",
                f"{plain.url}?options=-c%20no_such=pg-s3cr3t",
                f"{database}password=pg-s3cr3t",
                f"{database}sslpassword=pg-s3cr3t&sslcert=/pg-s3cr3t",
            ),
            "REDIS_URL": (
                f"redis://u:redis-s3cr3t@127.0.0.1:{closed}/0",
                f"redis://{powerless_user}:redis-s3cr3t@{redis}",
                f"redis://{powerless_user}:redis-s3cr3t-not@{redis}",
                f"rediss://u:redis-s3cr3t@{redis}",
                f"rediss://u:redis-s3cr3t@{redis}?ssl_ca_certs=/none.pem",
                "unix://u:redis-s3cr3t@/redis.sock",
            ),
        }
        for name, url in [(name, url) for name, each in urls.items() for url in each]:
            env = {**ONE_LOOK, "DOCORA_OPS_STATEMENT_TIMEOUT": "1", name: url}
            refused = docora.run("retry-all-failed", "--json", env=env)
            checked = docora.run("doctor", env=env)
            assert refused.code in {2, 5, 6}, (url, refused)
            assert checked.code in {0, 2, 5, 6}, (url, checked)
            for result in (refused, checked):
                assert "Traceback" not in result.stderr
                assert_no_secret(result.stdout, result.stderr)
    entries = b"".join(redis_texts(docora, but=b"rq:results:")).decode(errors="replace")
    assert "refuses: row 1 of ***, ***, ***" in entries
    assert_no_secret(entries)


def test_a_password_in_the_wrong_argument_is_not_repeated(docora: Docora) -> None:
    url = "postgres://docora:url-s3cr3t@db/docora"
    for words, env in (
        (("status", "--env-file", url), {}),
        (("status",), {"DOCORA_OPS_ENV_FILE": url}),
        (("cancel", url), {}),
        (("retry", url), {}),
        (("retry-all-failed", TOKEN), {}),
        (("help", url), {}),
        (("help", "--schema", url), {}),
    ):
        options = () if words[0] == "help" else ("--json",)
        result = docora.run(*words, *options, env=env)
        assert result.code in {2, 3}, (words, result)
        assert "***" in result.stderr
        assert_no_secret(result.stdout, result.stderr)


BUG = """
import sys
from docora_ops.cli.context import Context
secret = "s3cr" + "3t"  # Python 3.13 shows the lines of code
def break_down(context, key="key-" + secret, **options):
    try:
        raise ValueError("pg-" + secret)
    except ValueError as error:
        error.add_note("note-" + secret)
        raise RuntimeError("redis-" + secret, key, context) from error
Context.docora = property(break_down)
from docora_ops.__main__ import main
sys.exit(main())
"""


@pytest.mark.slow
def test_a_bug_shows_where_it_happened_and_no_secret(
    docora: Docora, link: TestLink, env_file: Path
) -> None:
    with docora.start_program(
        *(sys.executable, "-X", "dev", "-c", BUG),
        *("retry", *link.ids, "--env-file", str(env_file), "--json"),
        env={"DATABASE_URL": None, "REDIS_URL": None, "PYTHONFAULTHANDLER": "1"},
    ) as process:
        result = finish(process).ended(1, "bug")
    assert "RuntimeError" in result.json["error"]
    assert 'File "<string>", line 10, in break_down' in result.stderr
    assert "this is a bug in docora-ops" in result.stderr
    assert_no_secret(result.stdout, result.stderr)
    assert docora.status(link) == "failed"
    # Even if the bug is in what prints.
    bug = BUG.replace("Context.docora =", "Context.say = Context.show_document = break_down #")
    with docora.start_program(sys.executable, "-c", bug, "status", "--json") as process:
        printing = finish(process).ended(1)
    assert "this is a bug in docora-ops" in printing.stderr
    assert_no_secret(printing.stdout, printing.stderr)


def leaves_a_core_dump(process: subprocess.Popen[str]) -> bool:
    """Crashes the process, with all room for a core dump."""
    _, most = resource.prlimit(process.pid, resource.RLIMIT_CORE)
    resource.prlimit(process.pid, resource.RLIMIT_CORE, (most, most))
    process.send_signal(SIGABRT)
    _, status = os.waitpid(process.pid, 0)
    assert os.WTERMSIG(status) == SIGABRT
    return os.WCOREDUMP(status)


@pytest.mark.slow
def test_a_command_leaves_no_core_dump(docora: Docora, tmp_path: Path) -> None:
    link = docora.add_link()
    assert docora.run("retry", *link.ids).code == 0
    with docora.start_program("sleep", "60", cwd=tmp_path) as process:
        if not leaves_a_core_dump(process):
            pytest.skip("needs the right to write core dumps")
    with docora.start_installed("wait", *link.ids, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert any("Waiting for" in line for line in process.stderr)
        assert not leaves_a_core_dump(process)
