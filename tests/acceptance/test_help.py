"""What a person meets before anything is done: help, usage errors, settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main

from docora_ops import __version__
from docora_ops.cli.app import app
from tests.harness import COMMAND, Docora, Result, finish

DRIVERS = {"psycopg", "psycopg_binary", "redis", "rq"}
PYDANTIC = {"pydantic", "pydantic_core", "pydantic_settings"}
TRACE = {"PYTHONPROFILEIMPORTTIME": "1"}
STRAY = os.fsdecode(b"\xff\xfe")
SECRET = "s3cr3t"


def commands() -> dict[str, Any]:
    """Every command by name; the name of the whole is empty."""
    group: Any = typer.main.get_command(app)
    return {"": group, **group.commands}


def split_trace(result: Result) -> tuple[str, set[str]]:
    """What a command said on stderr, and the packages that it imported."""
    said, imported = [], set()
    for line in result.stderr.splitlines(keepends=True):
        if line.startswith("import time:"):
            imported.add(line.rpartition("|")[2].strip().split(".")[0])
        else:
            said.append(line)
    return "".join(said), imported


def run_all(
    docora: Docora, argument_lists: Iterable[Sequence[str]], **env: str | None
) -> Iterator[tuple[Sequence[str], Result]]:
    """Each command in a process of its own, some at a time."""
    waiting = list(argument_lists)
    for start in range(0, len(waiting), 6):
        some = waiting[start : start + 6]
        yield from zip(some, docora.run_together(*some, env=env), strict=True)


def test_the_version_is_that_of_the_package(docora: Docora) -> None:
    result = docora.run("--version", env=TRACE)
    said, imported = split_trace(result)
    assert (result.code, result.stdout, said) == (0, f"docora-ops {__version__}\n", "")
    assert not imported & (DRIVERS | PYDANTIC)


def test_every_help_explains_each_option_and_shows_an_example_and_loads_no_driver(
    docora: Docora,
) -> None:
    lists = [*([*name.split(), "--help"] for name in commands()), ["retry", "-h"]]
    seen = []
    for arguments, result in run_all(docora, lists, COLUMNS="400", **TRACE):
        said, imported = split_trace(result)
        assert (result.code, said) == (0, ""), arguments
        assert not imported & DRIVERS, arguments
        assert "Example: docora-ops " in result.stdout
        assert "<bool>" not in result.stdout
        assert "\x1b" not in result.stdout
        command = commands()[" ".join(arguments[:-1])]
        for parameter in command.params:
            assert parameter.help, parameter.name
            text = re.sub(r"\s+", " ", result.stdout)
            assert re.sub(r"\s+", " ", parameter.help) in text, parameter.name
            for option in parameter.opts:
                if option.startswith("-"):
                    assert f" {option} " in result.stdout
                    seen.append(option)
    assert {"--front", "--reset-circuit", "--skip-open-circuits", "--env-file"} <= set(seen)


def test_the_trace_of_imports_does_see_a_driver(docora: Docora) -> None:
    """Without this the tests for what is not loaded could not fail."""
    _, imported = split_trace(docora.run("progress", "bulk_x", env=TRACE))
    assert imported & DRIVERS == {"redis", "rq"}
    assert imported & PYDANTIC == PYDANTIC


def test_help_and_usage_errors_load_no_pydantic(docora: Docora) -> None:
    guilty = []
    for arguments, result in run_all(
        docora,
        [
            ["--help"],
            ["retry", "--help"],
            ["nonsense"],
            ["retry"],
            ["retry", "a", "b", "--nonsense"],
        ],
        **TRACE,
    ):
        _, imported = split_trace(result)
        if imported & PYDANTIC:
            guilty.append(" ".join(arguments))
    assert not guilty


def test_the_help_lists_every_command(docora: Docora) -> None:
    result = docora.run("--help")
    for name in commands():
        assert re.search(rf"^\W*{name}\b", result.stdout, re.MULTILINE), name
    assert set(commands()) >= {
        *("retry", "retry-all-failed", "resync", "schedule", "progress", "cancel", "demo")
    }


def test_no_command_at_all_shows_the_help_and_no_empty_error(docora: Docora) -> None:
    result = docora.run()
    assert "Usage: docora-ops" in result.stdout
    assert result.code in {0, 2}
    assert not re.search(r"^Error:\s*$", result.stderr, re.MULTILINE), result.stderr


def test_usage_errors_are_one_sentence_or_one_document_and_load_no_driver(docora: Docora) -> None:
    wrong = [
        ["nonsense"],
        ["retry"],
        ["retry", "one"],
        ["retry", "one", "two", "three"],
        ["retry", "one", "two", "--nonsense"],
        ["retry", "one", "two", "--front=yes"],
        ["retry-all-failed", "--limit"],
        ["retry-all-failed", "--limit", "many"],
        ["retry-all-failed", "surplus"],
        ["resync", "one"],
        ["resync", "one", "two", "--all"],
        ["retry", "one", "two", "--timeout", "9"],
        ["resync", "one", "--all", "--wait", "--dry-run"],
        ["retry-all-failed", "--wait", "--timeout", "0"],
        ["repair", "one", "two", "three"],
        ["repair", "--all"],
        ["schedule", "surplus"],
        ["schedule", "--yes"],
        ["failed", "surplus"],
        ["queue", "--limit", "0"],
        ["show", "one"],
        ["failed", "--group-by", "nonsense"],
        ["progress"],
        ["cancel", "one", "two"],
        ["--nonsense"],
    ]
    lists = [*([*arguments, "--json"] for arguments in wrong), *wrong[:3]]
    for arguments, result in run_all(docora, lists, **TRACE):
        said, imported = split_trace(result)
        assert result.code == 2, (arguments, result)
        assert not imported & DRIVERS, arguments
        assert re.match(r"Error: \S.*\nHint: \S.*\n\Z", said), said
        if "--json" in arguments:
            assert result.json.keys() == {"error", "code", "hint"}
            assert result.json["code"] == "usage"
            assert f"Error: {result.json['error']}\n" in said
            assert result.stdout.isascii()
        else:
            assert result.stdout == ""


def test_bad_values_of_every_option_get_a_sentence_and_change_nothing(
    docora: Docora, tmp_path: Path
) -> None:
    link = docora.add_link()
    before = docora.dump()
    (tmp_path / "latin1.env").write_bytes(b"DATABASE_URL=postgres://\xff\n")
    long = "x" * 100_000
    numbers = ["many", "0", "-1", "1.5", "", "9" * 30, "\uff11\uff12", STRAY]
    hostile = ["", " ", STRAY, "\x1b[31mred' OR '' = '", long]
    lists = [
        *(["retry-all-failed", "--limit", value] for value in numbers),
        *(["retry-all-failed", "--batch-size", value] for value in ["0", "1001", ""]),
        *(["retry", "a", "b", "--wait", "--timeout", value] for value in ["soon", "", "9" * 30]),
        *(["retry-all-failed", "--app", value] for value in ["", STRAY, long]),
        *(["retry-all-failed", "--error", value] for value in ["", " ", STRAY]),
        *(["show", value, link.repository_id] for value in ["", STRAY, hostile[3]]),
        *(["failed", "--limit", value] for value in ["0", "10001"]),
        *(["failed", "--page", value] for value in ["0", "many"]),
        *(["failed", "--group-by", value] for value in ["", STRAY, hostile[3]]),
        *(["failed", "--error", value] for value in ["", STRAY]),
        *(["retry", value, link.repository_id] for value in hostile),
        *(["retry", link.app_id, value] for value in ["", STRAY, hostile[3]]),
        *(["resync", value, "--all", "--yes"] for value in ["", STRAY]),
        *(["repair", value] for value in hostile),
        *(["repair", link.app_id, value] for value in ["", STRAY, hostile[3]]),
        *(["progress", value] for value in ["", STRAY, hostile[3]]),
        *(["cancel", value] for value in [STRAY, long]),
        *(
            ["--env-file", value, "retry-all-failed"]
            for value in [
                *("", " ", STRAY, "\x1b[31mred", "/nowhere/at/all", "/etc/passwd/x"),
                *(str(tmp_path), str(tmp_path / "latin1.env"), "x" * 5000),
            ]
        ),
    ]
    problems = []
    for arguments, result in run_all(docora, lists):
        shown = [argument[:40] for argument in arguments]
        if result.code not in {2, 3}:
            problems.append(f"{shown} ended with {result.code}")
        if not re.match(r"Error: \S", result.stderr) or "Traceback" in result.stderr:
            problems.append(f"{shown} said {result.stderr[:200]!r}")
        if result.stdout or "\x1b" in result.stderr:
            problems.append(f"{shown} printed what it should not")
    assert not problems, "\n".join(problems)
    assert docora.dump() == before


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_can_be_shown_and_works(docora: Docora) -> None:
    script = """
        eval "$(docora-ops --show-completion)"
        COMP_WORDS=(docora-ops ret) COMP_CWORD=1
        _docora_ops_completion docora-ops; echo "${COMPREPLY[@]}"
        COMP_WORDS=(docora-ops retry --fr) COMP_CWORD=2
        _docora_ops_completion docora-ops; echo "${COMPREPLY[@]}"
    """
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    shell = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=docora.environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shell.stderr == ""
    assert shell.stdout == "retry retry-all-failed\n--front\n"


# Settings


def env_file(path: Path, **settings: str) -> str:
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return str(path)


def test_an_env_file_is_read_when_named_and_the_environment_wins(
    docora: Docora, tmp_path: Path
) -> None:
    link = docora.add_link()
    file = env_file(
        tmp_path / "docora.env",
        DATABASE_URL=docora.database_url,
        REDIS_URL="redis://127.0.0.1:1",
        DOCORA_OPS_QUEUE_NAME="from-file",
        DOCORA_OPS_JOB_TIMEOUT="77",
        ENCRYPTION_KEY="00" * 32,
        UNKNOWN_TO_US="whatever",
    )
    arguments = ("--env-file", file, "retry", link.app_id, link.repository_id, "--json")
    env = {"DATABASE_URL": None, "DOCORA_OPS_JOB_TIMEOUT": "99"}
    file_alone = docora.run(*arguments, env={**env, "REDIS_URL": None})
    assert file_alone.code == 5, file_alone
    assert "127.0.0.1:1" in file_alone.json["error"]
    assert docora.status(link) == "failed"

    result = docora.run(*arguments, env=env)
    assert (result.code, result.data["outcome"]) == (0, "queued")
    assert docora.redis.lrange("rq:queue:from-file", 0, -1) == [link.job_id.encode()]
    assert docora.job(link).timeout == 99


def test_no_file_is_read_unasked(docora: Docora, tmp_path: Path) -> None:
    for name in (".env", "docora.env", ".docora-ops.env"):
        env_file(tmp_path / name, DATABASE_URL=docora.database_url)
    result = docora.run(
        "retry-all-failed",
        "--json",
        env={"DATABASE_URL": None, "HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert (result.code, result.json["code"]) == (2, "configuration")
    assert "DATABASE_URL is not set" in result.json["error"]
    assert "--env-file" in result.json["hint"]


def test_an_env_file_through_a_pipe_is_read(docora: Docora) -> None:
    """As in --env-file <(sops --decrypt docora.env)."""
    link = docora.add_link()
    reader, writer = os.pipe()
    os.write(writer, f"DATABASE_URL={docora.database_url}\n".encode())
    os.close(writer)
    result = docora.run(
        *("--env-file", f"/dev/fd/{reader}", "retry", link.app_id, link.repository_id),
        env={"DATABASE_URL": None},
        pass_fds=[reader],
    )
    os.close(reader)
    assert result.code == 0, result
    assert docora.was_reset(link)


UNUSABLE = {
    "MAX_RETRY_ATTEMPTS": ["0", SECRET, "9" * 30],
    "RETRY_BASE_DELAY_MS": ["-1", SECRET, "9" * 400],
    "RESCAN_INTERVAL_MS": ["-1", SECRET, "9" * 400],
    "DOCORA_OPS_JOB_TIMEOUT": ["0", SECRET, "9" * 30],
    "DOCORA_OPS_CONNECT_TIMEOUT": ["0", SECRET, "9" * 30],
    "DOCORA_OPS_STATEMENT_TIMEOUT": ["-1", SECRET, "9" * 30],
    "DOCORA_OPS_LOCK_TIMEOUT": ["1.5", SECRET, "9" * 30],
    "DOCORA_OPS_QUEUE_NAME": ["a b", f"{SECRET}\n", STRAY],
    "DOCORA_OPS_JOB_FUNCTION": ["os..system", SECRET, f"{SECRET}.("],
}
"""By variable, three values that can't be used."""

UNUSABLE_DATABASE_URLS = [
    SECRET,
    f"mysql://u:{SECRET}@h/d",
    f"postgres://u:{SECRET}@[::1/d",
    f"postgres://u:{SECRET}@h:port/d",
    f"postgres://u:{SECRET}@h/d?nonsense={SECRET}",
    f"postgres://u:{SECRET}@h/d?connect_timeout={SECRET}",
    f"postgres://u:{SECRET}@h/d?connect_timeout=0",
    f"postgres://u{STRAY}:{SECRET}@h/d",
]
UNUSABLE_REDIS_URLS = [
    SECRET,
    f"redis://u:{SECRET}@h:port",
    f"redis://:p#{SECRET}@h:1/0",
    f"redis://u:{SECRET}@h?db={SECRET}",
    f"redis://u:{SECRET}@h?nonsense={SECRET}",
    f"redis://u:{SECRET}@127.0.0.1:1?encoding={SECRET}",
    f"redis://u:{SECRET}@127.0.0.1:1?retry={SECRET}",
    f"redis://u:{SECRET}@h{STRAY}:1",
]


def assert_none_works(docora: Docora, variable: str, values: list[str]) -> None:
    """Each ends with 2 and names the variable, and no value is shown."""
    problems = []
    command = ("retry-all-failed", "--json")
    for start in range(0, len(values), 4):
        some = values[start : start + 4]
        processes = [docora.start(*command, env={variable: value}) for value in some]
        for value, result in zip(some, map(finish, processes), strict=True):
            if result.code != 2:
                problems.append(f"{value!a} ended with {result.code}")
            elif result.json["code"] != "configuration" or variable not in result.json["error"]:
                problems.append(f"{value!a} printed {result.stdout!a}")
            if SECRET in result.stdout + result.stderr:
                problems.append(f"{value!a} was shown: {result.stderr!a}")
            if '  File "' in result.stderr:
                problems.append(f"{value!a} gave a traceback")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("index", range(3))
def test_unusable_settings_are_all_named_at_once_and_not_shown(docora: Docora, index: int) -> None:
    docora.add_link()
    before = docora.dump()
    values = {name: choice[index] for name, choice in UNUSABLE.items()}
    result = docora.run("retry-all-failed", "--json", env=values)
    assert docora.dump() == before
    assert result.code == 2, result
    assert result.json.keys() == {"error", "code", "hint"}
    assert result.json["code"] == "configuration"
    for name, value in values.items():
        assert name in result.json["error"]
        assert len(value) < 4 or value not in result.stdout + result.stderr
    assert SECRET not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_an_unusable_database_url_is_named_but_not_shown(docora: Docora) -> None:
    assert_none_works(docora, "DATABASE_URL", UNUSABLE_DATABASE_URLS)


def test_an_unusable_redis_url_is_named_but_not_shown(docora: Docora) -> None:
    docora.add_link()
    before = docora.dump()
    assert_none_works(docora, "REDIS_URL", UNUSABLE_REDIS_URLS)
    assert docora.dump() == before


def with_options(url: str, *options: str) -> str:
    return url + ("&" if "?" in url else "?") + "&".join(options)


def test_options_of_the_redis_url_do_not_get_in_the_way(docora: Docora) -> None:
    link = docora.add_link()
    options = ("decode_responses=true", "protocol=3", "health_check_interval=5", "client_name=x")
    url = with_options(docora.redis_url, *options)
    result = docora.run("retry-all-failed", "--json", env={"REDIS_URL": url})
    assert result.code == 0, result
    assert docora.was_reset(link)

    shown = docora.run(
        "progress",
        result.data["operation_id"],
        env={"REDIS_URL": with_options(docora.redis_url, "max_connections=1")},
    )
    assert shown.code == 0, shown


def test_an_empty_variable_counts_as_unset(docora: Docora) -> None:
    result = docora.run(
        "retry-all-failed", env={"DATABASE_URL": "", "MAX_RETRY_ATTEMPTS": "", "REDIS_URL": ""}
    )
    assert result.code == 2, result
    assert result.stderr.startswith("Error: DATABASE_URL is not set\nHint: ")


def test_every_setting_shows_in_the_job(docora: Docora) -> None:
    link = docora.add_link()
    result = docora.run(
        *("retry", link.app_id, link.repository_id, "--json"),
        env={
            "DOCORA_OPS_QUEUE_NAME": "another-queue",
            "DOCORA_OPS_JOB_FUNCTION": "our.own.snapshot",
            "DOCORA_OPS_JOB_TIMEOUT": "1234",
            "MAX_RETRY_ATTEMPTS": "4",
            "RETRY_BASE_DELAY_MS": "2500",
        },
    )
    assert result.code == 0, result
    assert docora.waiting() == []
    assert docora.redis.lrange("rq:queue:another-queue", 0, -1) == [link.job_id.encode()]
    assert docora.redis.smembers("rq:queues") == {b"rq:queue:another-queue"}
    job = docora.job(link)
    assert (job.origin, job.func_name, job.timeout) == ("another-queue", "our.own.snapshot", 1234)
    assert (job.retries_left, job.retry_intervals) == (3, [3, 5, 10])


def test_without_settings_the_job_is_the_one_that_docora_expects(docora: Docora) -> None:
    app_id = docora.add_app("Acme Search")
    repository_id = docora.add_repository("octo/api", url="https://github.com/octo/api")
    link = docora.link(app_id, repository_id)
    result = docora.run("retry", app_id, repository_id)
    assert result.code == 0, result
    job = docora.job(link)
    assert (job.origin, job.func_name) == ("snapshot-queue", "docora_ops.worker.snapshot")
    assert (job.retries_left, job.retry_intervals) == (4, [1, 2, 4, 8])
    assert (job.result_ttl, job.failure_ttl) == (86_400, 7 * 86_400)
    assert job.description == "octo/api → Acme Search"
    assert job.args == ()
    assert set(job.kwargs) == {
        *("app_id", "app_name", "repository_id", "github_url", "owner", "name", "base_url"),
        *("github_token_encrypted", "client_auth_key_encrypted", "is_rescan"),
    }
    assert job.kwargs["is_rescan"] is True

    docora.redis.flushdb()
    docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
    once = docora.run("retry", app_id, repository_id, env={"MAX_RETRY_ATTEMPTS": "1"})
    assert once.code == 0
    assert docora.job(link).retries_left in {None, 0}


def test_the_lock_timeout_is_how_long_a_locked_row_is_waited_for(docora: Docora) -> None:
    link = docora.add_link()
    docora.connection.execute("BEGIN")
    docora.connection.execute("SELECT 1 FROM app_repositories FOR UPDATE")
    result = docora.run(
        *("retry", link.app_id, link.repository_id, "--json"),
        env={"DOCORA_OPS_LOCK_TIMEOUT": "1"},
    )
    docora.connection.execute("ROLLBACK")
    assert result.code == 5, result
    assert result.json["code"] == "link_locked"
    assert "1 s" in result.json["error"]
    assert docora.status(link) == "failed"
    assert docora.waiting() == []
