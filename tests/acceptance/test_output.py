"""What is printed: inert, complete, in the right place, and never a secret."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.cells import cell_len

from tests.harness import AUTH_KEY, COMMAND, GITHUB_TOKEN, Docora, Result, TestLink, on_terminal
from tests.prescribed import with_login

APP = "app_" + "a" * 24
REPOSITORY = "repo_" + "b" * 24

# What strangers may have put into the database, and how a person has to see it.
TRICKS = {
    "\x1b]0;PWNED\x07": r"\x1b]0;PWNED\x07",
    "\x1b[5;35mX": r"\x1b[5;35mX",
    "\x9b5;35mY": r"\x9b5;35mY",
    "[red]x[/] [/]": "[red]x[/] [/]",
    "\u202egnp\u202c\u2066": r"\u202egnp\u202c\u2066",
    "z\u200bw\ufeff": r"z\u200bw\ufeff",
    "a\nb\r\tc\x08\x7f": r"a\nb\r\tc\x08\x7f",
    "\u2028": r"\u2028",
    "'\"` % %s {0} {} $(id) \\": "'\"` % %s {0} {} $(id) \\",
    "😀 e\u0301 漢字": "😀 e\u0301 漢字",
}
EVIL = " ".join(TRICKS)
EVIL_SHOWN = " ".join(TRICKS.values())
EVIL_NAME = "E " + "".join(EVIL.split(" ", 3)[:3]) + "[red]x[/]\u202e{0}%s"
EVIL_NAME_SHOWN = r"E \x1b]0;PWNED\x07\x1b[5;35mX\x9b5;35mY[red]x[/]\u202e{0}%s"

COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3\d|4\d|9\d|10\d)(?:;[\d;]*)?m")
STYLING = re.compile(r"\x1b\[[\d;]*m")
ANIMATION = re.compile(r"\x1b\[(?:\?25[lh]|2K|\d*A)")


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link all of whose texts are hostile."""
    docora.add_worker()
    docora.add_app(EVIL_NAME, APP)
    docora.add_repository(f"octo/{EVIL}", REPOSITORY)
    return docora.link(APP, REPOSITORY, last_error=EVIL)


def assert_inert(text: str) -> None:
    """Only printable characters and line ends."""
    bad = {character for character in text if not character.isprintable()} - {"\n"}
    # A combining accent and the like are printable; what is left would act on a terminal.
    assert not bad, f"{sorted(bad)!r} in {text!r}"


def assert_inert_on_terminal(shown: str) -> str:
    """The same, once what rich itself does to a terminal is taken away; returns the rest."""
    assert "5;35" not in "".join(STYLING.findall(shown))
    plain = ANIMATION.sub("", STYLING.sub("", shown)).replace("\r", "")
    assert_inert(plain)
    return plain


def test_in_a_pipe_hostile_text_is_inert_and_complete(docora: Docora, link: TestLink) -> None:
    dry, table = (
        docora.run("retry", APP, REPOSITORY, "--dry-run"),
        docora.run("retry", APP, REPOSITORY),
    )
    refused, missing, repository, unlinked = docora.run_together(
        ("retry", APP, REPOSITORY),
        ("retry", EVIL_NAME[:-1], REPOSITORY),
        ("retry", APP, f"octo/{EVIL[:-1]}"),
        ("retry", APP, docora.add_repository(f"other/{EVIL}")),
    )
    for result, code in ((dry, 0), (table, 0), (refused, 4), (missing, 3), (repository, 3)):
        assert result.code == code, result
        assert_inert(result.stdout + result.stderr)
        assert "…" not in result.stdout + result.stderr
    assert_inert(unlinked.stderr)
    assert f"{EVIL_NAME_SHOWN} ({APP})" in dry.stdout
    assert f"octo/{EVIL_SHOWN}" in dry.stdout
    assert f"{EVIL_NAME_SHOWN} ({APP})" in table.stdout
    assert f"octo/{EVIL_SHOWN} ({REPOSITORY})" in table.stdout
    assert f"Last error  {EVIL_SHOWN}" in table.stdout
    assert f"octo/{EVIL_SHOWN}" in refused.stderr
    assert "did you mean" in missing.stderr
    assert "PWNED" in missing.stderr
    assert "did you mean" in repository.stderr


def test_in_a_pipe_hostile_text_is_inert_in_every_bulk_table(
    docora: Docora, link: TestLink
) -> None:
    for name in ("\x1b[2J", "b\u202e", "c\nd"):
        docora.link(APP, docora.add_repository(f"octo/{name}", f"repo{name}"))
    docora.link(docora.add_app("[bold]Other[/]"), REPOSITORY)
    dry = docora.run("retry-all-failed", "--dry-run")
    real = docora.run("retry-all-failed")
    resync = docora.run("resync", APP, "--all", "--yes")
    for result in (dry, real, resync):
        assert result.code == 6, result
        assert_inert(result.stdout + result.stderr)
        assert "…" not in result.stdout + result.stderr
        assert f"{EVIL_NAME_SHOWN} ({APP})" in result.stdout
        assert rf"{APP}-repo\x1b[2J " in result.stdout
        assert rf"{APP}-repoc\nd " in result.stdout
    assert "[bold]Other[/]" in real.stdout
    assert f"octo/{EVIL_SHOWN}" in dry.stdout


def test_json_is_one_ascii_line_that_gives_back_what_is_in_the_database(
    docora: Docora, link: TestLink
) -> None:
    docora.link(APP, docora.add_repository("octo/bad", "repo\x1b[2J"), last_error=EVIL)
    dry = docora.run("retry", APP, REPOSITORY, "--dry-run", "--json")
    one = docora.run("retry", APP, REPOSITORY, "--json")
    refused, missing, bulk = docora.run_together(
        ("retry", APP, REPOSITORY, "--json"),
        ("retry", EVIL_NAME[:-1], REPOSITORY, "--json"),
        ("retry-all-failed", "--json"),
    )
    for result, code in ((dry, 0), (one, 0), (refused, 4), (missing, 3), (bulk, 6)):
        assert result.code == code, result
        assert result.stdout.isascii()
        assert result.stdout.endswith("}\n")
        assert_inert(result.stdout)
        assert result.stdout.count("\n") == 1
        json.loads(result.stdout)
        assert_inert(result.stderr)
    assert dry.data["links"][0]["app_name"] == EVIL_NAME
    assert one.data["app_name"] == EVIL_NAME
    assert one.data["repository"] == f"octo/{EVIL}"
    assert one.data["previous"]["last_error"] == EVIL
    assert bulk.data["failures"][0]["job_id"] == f"{APP}-repo\x1b[2J"


def second_column(plain: str, labels: int) -> str:
    """The right-hand text of a table of pairs, put together again, without blanks."""
    return "".join(line[labels:] for line in plain.splitlines()).replace(" ", "")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_on_a_terminal_of_any_width_nothing_acts_overflows_or_is_cut(
    docora: Docora, link: TestLink, columns: int
) -> None:
    docora.link(APP, docora.add_repository(f"long/{'n' * 200}", "repo\x1b[2J"), last_error=None)

    code, shown = on_terminal(docora, ["retry-all-failed", "--dry-run"], columns=columns)
    assert code == 6
    plain = assert_inert_on_terminal(shown)
    table = plain[plain.index("App") : plain.index("Dry run: nothing was changed")]
    assert max(cell_len(line) for line in table.splitlines()) <= columns
    assert "…" not in table
    blank_free = table.replace(" ", "").replace("\n", "")
    for part in ("wouldqueue", "can'tbe", "queued", "Repository", "Notdone"):
        assert part in blank_free, table

    code, shown = on_terminal(docora, ["retry", APP, REPOSITORY], columns=columns)
    assert code == 0
    plain = assert_inert_on_terminal(shown)
    table = plain[plain.index("App") : plain.index("Retry queued")]
    assert max(cell_len(line) for line in table.splitlines()) <= columns
    assert "…" not in table
    values = second_column(table, 12)
    for value in (f"{EVIL_NAME_SHOWN} ({APP})", f"octo/{EVIL_SHOWN} ({REPOSITORY})", EVIL_SHOWN):
        assert value.replace(" ", "") in values

    code, shown = on_terminal(docora, ["resync", APP, REPOSITORY], columns=columns, answers="n\n")
    assert code == 130
    plain = assert_inert_on_terminal(shown)
    assert EVIL_NAME_SHOWN in plain.replace("\n", "")
    assert f"octo/{EVIL_SHOWN}" in plain.replace("\n", "")


def test_a_very_long_error_is_whole_in_a_pipe_and_in_json_and_costs_its_own_length_only(
    docora: Docora,
) -> None:
    error = "".join(f"line {number}: boom\n" for number in range(8000))
    assert len(error) > 100_000
    link = docora.add_link(last_error=error)
    document = docora.run("retry", link.app_id, link.repository_id, "--json")
    assert document.data["previous"]["last_error"] == error
    docora.connection.execute(
        "UPDATE app_repositories SET status = 'failed', last_error = %s", (error,)
    )
    table = docora.run("retry", link.app_id, link.repository_id)
    assert error.replace("\n", r"\n") in table.stdout
    assert len(table.stdout) < 2 * len(error)


def test_an_app_named_like_an_option_can_be_named(docora: Docora) -> None:
    link = docora.link(docora.add_app("--yes"), docora.add_repository("--all/--json"))
    one = docora.run("retry", "--json", "--", "--yes", "--all/--json")
    assert one.code == 0, one
    assert one.data["job_id"] == link.job_id
    docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
    bulk = docora.run("retry-all-failed", "--app=--yes", "--json")
    assert (bulk.code, bulk.data["total"]) == (0, 1)
    without = docora.run("resync", "--all", "--json", "--", "--yes")
    assert (without.code, without.json["code"]) == (2, "usage")


# Colour and animation


def test_a_terminal_has_colours_and_an_empty_no_color_changes_nothing(docora: Docora) -> None:
    docora.add_links(2)
    code, shown = on_terminal(docora, ["retry-all-failed", "--yes"], env={"NO_COLOR": ""})
    assert code == 0
    assert COLOUR.search(shown)
    assert ANIMATION.search(shown)


def test_no_color_means_neither_colour_nor_animation(docora: Docora) -> None:
    docora.add_links(2)
    env = {"NO_COLOR": "1"}
    code, bulk = on_terminal(docora, ["retry-all-failed", "--yes"], env=env)
    assert code == 0
    code, wrong = on_terminal(docora, ["retry"], env=env)
    assert code == 2
    code, text = on_terminal(docora, ["--help"], env=env)
    assert code == 0
    for shown in (bulk, wrong, text):
        assert not COLOUR.search(shown)
        assert not ANIMATION.search(shown)


def test_a_dumb_terminal_gets_no_escape_sequence_at_all(docora: Docora) -> None:
    docora.add_links(2)
    for arguments in (["retry-all-failed", "--yes"], ["retry"], ["retry", "--help"]):
        _, shown = on_terminal(docora, arguments, env={"TERM": "dumb"})
        assert "\x1b" not in shown, arguments
        assert shown


# Streams


def in_shell(docora: Docora, command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command.replace("docora-ops", str(COMMAND))],
        env=docora.environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_into_closed_pipe(docora: Docora, *arguments: str) -> tuple[int, str]:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [COMMAND, *arguments],
        env=docora.environment(),
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    return process.returncode, process.stderr


def test_a_reader_that_has_gone_is_no_bug(docora: Docora) -> None:
    link = docora.add_link()
    other = docora.add_link()
    problems = []
    for arguments, expected in (
        (["--help"], 0),
        (["--version"], 0),
        (["retry", "--json"], 2),
        (["retry", "nobody", "nothing", "--json"], 3),
        (["retry-all-failed", "--dry-run"], 0),
        (["retry", link.app_id, link.repository_id], 0),
        (["retry-all-failed", "--json"], 0),
    ):
        code, stderr = run_into_closed_pipe(docora, *arguments)
        if code not in {0, expected}:
            problems.append(f"{arguments} ended with {code}")
        if re.search(r"Traceback|Exception ignored|BrokenPipe|bug", stderr):
            problems.append(f"{arguments} said {stderr!r}")
    assert docora.was_reset(link)
    assert docora.was_reset(other)
    assert not problems, "\n".join(problems)


def test_closed_streams_do_not_keep_the_work_from_being_done(docora: Docora) -> None:
    """As some cron jobs and daemons start their commands."""
    problems = []
    for redirection in (">&-", "2>&-", ">&- 2>&-", "<&-"):
        link = docora.add_link()
        done = in_shell(
            docora, f"docora-ops retry {link.app_id} {link.repository_id} {redirection}"
        )
        if done.returncode != 0 or not docora.was_reset(link):
            problems.append(f"{redirection}: {done.returncode}, {done.stderr[-200:]!r}")
    assert not problems, "\n".join(problems)


def test_a_full_disk_under_stdout_is_said_in_a_sentence(docora: Docora) -> None:
    link = docora.add_link()
    done = in_shell(docora, f"docora-ops retry {link.app_id} {link.repository_id} >/dev/full")
    assert docora.was_reset(link)
    assert done.returncode not in {0, 120}
    assert not re.search(r"Traceback|Exception ignored|bug", done.stderr), done.stderr
    assert "Error: " in done.stderr


def test_any_locale_works(docora: Docora) -> None:
    names = ("Zoë 漢字", "octo/naïve")
    link = docora.link(docora.add_app(names[0]), docora.add_repository(names[1]))
    for number, env in enumerate(
        (
            {"LANG": "C"},
            {"LC_ALL": "C"},
            {"LC_ALL": "POSIX"},
            {"PYTHONIOENCODING": "ascii"},
            {"LC_ALL": "nonsense.UTF-99"},
        )
    ):
        docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
        result = docora.run("retry", *names, env=env)
        assert result.code == 0, (env, result)
        assert link.job_id in result.stdout
        assert "Traceback" not in result.stderr
        if number < 3:
            assert names[0] in result.stdout
    table = docora.run("retry-all-failed", "--dry-run", env={"PYTHONIOENCODING": "ascii"})
    assert table.code == 0
    assert (table.stdout + table.stderr).isascii()
    assert "\\u2500" not in table.stdout


# Secrets


@contextmanager
def with_passwords(docora: Docora) -> Iterator[tuple[dict[str, str], set[str]]]:
    """URLs that carry passwords and work, and those passwords."""
    postgres, redis = "pg-s3cr3t-pw", "redis-s3cr3t-pw"
    role, user = docora.role, docora.redis_access.command_name
    docora.connection.execute(f"ALTER ROLE {role} PASSWORD '{postgres}'".encode())
    docora.redis.acl_setuser(user, enabled=True, passwords=[f"+{redis}"])
    yield (
        {
            "DATABASE_URL": with_login(docora.database_url, role, postgres),
            "REDIS_URL": with_login(docora.redis_url, user, redis),
        },
        {postgres, redis},
    )
    docora.connection.execute(f"ALTER ROLE {role} PASSWORD 'choose one'".encode())
    docora.redis.acl_setuser(user, enabled=True, passwords=[f"-{redis}"])


def test_no_secret_is_ever_printed(docora: Docora) -> None:
    one, stale, running = docora.add_link(), docora.add_link(), docora.add_link("synced")
    bad = docora.link(docora.add_app("Dotted", "app.dotted"), docora.add_repository())
    docora.start_job(running.job_id)
    docora.redis.set(f"rq:job:{stale.job_id}", "not a hash")
    with with_passwords(docora) as (env, passwords):
        secrets = {*passwords, GITHUB_TOKEN, AUTH_KEY, *GITHUB_TOKEN.split(":"), AUTH_KEY[:9]}
        results: list[Result] = [
            *docora.run_together(
                ("retry-all-failed", "--dry-run"),
                ("retry-all-failed", "--dry-run", "--json"),
                ("retry", stale.app_id, stale.repository_id),
                ("retry", bad.app_id, bad.repository_id, "--json"),
                ("resync", running.app_id, running.repository_id),
                env=env,
            ),
            docora.run("retry", one.app_id, one.repository_id, env=env),
            docora.run("retry-all-failed", env=env),
            docora.run("resync", one.app_id, "--all", "--yes", "--json", env=env),
        ]
        assert {result.code for result in results} == {0, 4, 6}
        assert docora.waiting() == [one.job_id]

        unreachable = f"postgres://u:{min(passwords)}@127.0.0.1:1/db"
        wrong = env["REDIS_URL"].replace("-pw@", "-pw-not@")
        for changed in (
            {"DATABASE_URL": unreachable},
            {"REDIS_URL": wrong},
            {"REDIS_URL": re.sub(r"@.*", "@127.0.0.1:1", env["REDIS_URL"])},
        ):
            failed = docora.run("retry-all-failed", env={**env, **changed})
            assert failed.code == 5, failed
            results.append(failed)
        docora.connection.execute("ALTER TABLE app_repositories RENAME TO gone")
        results += docora.run_together(
            ("retry-all-failed", "--json"), ("retry", one.app_id, one.repository_id), env=env
        )
        assert results[-1].code == 5
    for result in results:
        for secret in secrets:
            assert secret not in result.stdout + result.stderr, result

    fields = docora.job_hash(one.job_id)
    described = b" ".join(value for name, value in fields.items() if name != "data")
    assert b"octo/" in described
    assert not any(secret.encode() in described for secret in secrets)


def test_errors_name_the_place_but_neither_user_nor_password(docora: Docora) -> None:
    postgres, redis = (
        docora.run(
            "retry-all-failed", env={"DATABASE_URL": "postgres://who:hush@127.0.0.1:1/docora"}
        ),
        docora.run("progress", "bulk_x", env={"REDIS_URL": "redis://who:hush@127.0.0.1:1/3"}),
    )
    for result in (postgres, redis):
        assert result.code == 5, result
        assert "127.0.0.1" in result.stderr
        assert "hush" not in result.stderr
        assert "who" not in result.stderr
    assert "docora on 127.0.0.1" in postgres.stderr
    assert "127.0.0.1:1/3" in redis.stderr
