"""What is printed: in the right place, with colours where there is a screen, and read or not."""

import os
import re
import signal
from shlex import quote

import pytest

from docora_ops.render.console import wrapped
from tests.support.docora import Docora
from tests.support.proxy import eventually, patience
from tests.support.running_commands import small_pipe
from tests.support.terminal import at_terminals, on_terminal, plain_talk

COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3\d|4\d|9\d|10\d)(?:;[\d;]*)?m")
ANIMATION = re.compile(r"\x1b\[(?:\?25[lh]|2K|\d*A)")


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


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_bug(docora: Docora) -> None:
    link = docora.add_link()
    other = docora.add_link()
    problems = []
    reader, writer = os.pipe()
    os.close(reader)
    for arguments, expected in (
        (["--help"], 0),
        (["retry", "nobody", "nothing", "--json"], 3),
        (["retry-all-failed", "--dry-run"], 0),
        (["retry", *link.ids], 0),
        (["retry-all-failed", "--json"], 0),
    ):
        result = docora.run(*arguments, stdout=writer)
        if result.code != expected:
            problems.append(f"{arguments} ended with {result.code}")
        if re.search(r"Traceback|Exception ignored|BrokenPipe|bug", result.stderr):
            problems.append(f"{arguments} said {result.stderr!r}")
    os.close(writer)
    assert docora.was_reset(link)
    assert docora.was_reset(other)
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_a_pipe_that_another_process_made_non_blocking_loses_nothing(docora: Docora) -> None:
    """As Node does with the streams that it passes on."""
    reader, writer, is_full = small_pipe()
    os.set_blocking(writer, False)
    process = docora.start_installed("help", "json", stdout=writer)
    os.close(writer)
    eventually(is_full, "a full pipe")
    with os.fdopen(reader, encoding="utf-8") as stream:
        text = stream.read()
    assert process.wait(patience()) == 0
    assert text == docora.run("help", "json").stdout


def test_output_that_nobody_reads_does_not_outlive_a_signal(docora: Docora) -> None:
    docora.add_links(2000)
    with docora.start("retry-all-failed", "--dry-run", "--json") as process:
        assert process.stdout.read(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience()) == 130


@pytest.mark.slow
def test_closed_streams_do_not_keep_the_work_from_being_done(docora: Docora) -> None:
    """As some cron jobs and daemons start their commands."""
    problems = []
    for redirection in (">&-", "2>&-", ">&- 2>&-", "<&-"):
        link = docora.add_link()
        done = docora.run_in_shell(
            f"docora-ops retry {link.app_id} {link.repository_id} {redirection}"
        )
        if done.code != 0 or not docora.was_reset(link):
            problems.append(f"{redirection}: {done.code}, {done.stderr[-200:]!r}")
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_a_full_disk_under_stdout_is_an_error_in_a_sentence(docora: Docora) -> None:
    link = docora.add_link()
    done = docora.run_in_shell(f"docora-ops retry {link.app_id} {link.repository_id} >/dev/full")
    assert docora.was_reset(link)
    assert done.code not in {0, 120}
    assert not re.search(r"Traceback|Exception ignored|bug", done.stderr), done.stderr
    assert "Error: " in done.stderr


@pytest.mark.slow
def test_any_locale_works(docora: Docora) -> None:
    names = ("Zoë 漢字", "octo/naïve")
    link = docora.link(docora.add_app(names[0]), docora.add_repository(names[1]))
    for env in ({"LANG": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "nonsense.UTF-99"}):
        docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
        result = docora.run("retry", *names, env=env).ended(0)
        assert link.job_id in result.stdout
        assert "Traceback" not in result.stderr
        assert names[0] in result.stdout or "LANG" not in env
    table = docora.run("retry-all-failed", "--dry-run", env={"PYTHONIOENCODING": "ascii"}).ended(0)
    assert (table.stdout + table.stderr).isascii()


WRAPPED = """\
Warning: no worker listens on the queue
snapshot-queue: jobs wait until one is
started: docora-ops worker
Error: Only failed links can be retried:
Acme Search ← octo/repo is 'synced'
Hint: to send every file again:
docora-ops resync IDS
"""


def test_a_terminal_gets_whole_words_and_commands_and_a_pipe_whole_lines(docora: Docora) -> None:
    repository_id = docora.add_repository("octo/repo")
    link = docora.link(docora.add_app("Acme Search"), repository_id, "synced")
    shown = at_terminals(docora, ["retry", *link.ids], columns=40)
    assert plain_talk(shown.talk) == WRAPPED.replace("IDS", " ".join(link.ids))
    piped = docora.run("retry", *link.ids, env={"COLUMNS": "40"}).stderr
    assert [line.partition(":")[0] for line in piped.splitlines()] == ["Warning", "Error", "Hint"]


@pytest.mark.parametrize("name", ["Kim's little Shop", "'", "R,D", 'the "Best" of it'])
def test_a_command_stays_whole_whatever_the_name(name: str) -> None:
    command = f"docora-ops resync {quote(name)} octo/repo"
    assert wrapped(f"To send every file again: {command}", 30).splitlines()[-1] == command


def test_zero_columns_count_as_unknown(docora: Docora) -> None:
    link = docora.add_link(status="synced")
    shown = at_terminals(docora, ["retry", *link.ids], columns=40, env={"COLUMNS": "0"})
    assert shown.code == 4
    assert "Error: Only failed links can be retried: " in plain_talk(shown.talk)
    assert at_terminals(docora, ["apps"], columns=40, env={"COLUMNS": "0"}).data
