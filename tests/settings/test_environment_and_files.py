"""Settings: from the environment and a file, what can't be used, and what they do."""

import os
from pathlib import Path

import pytest

from tests.support.docora import Docora, Result, finish

SECRET = "s3cr3t"


STRAY = os.fsdecode(b"\xff\xfe")


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
    arguments = ("retry", *link.ids, "--env-file", file, "--json")
    env = {"DATABASE_URL": None, "DOCORA_OPS_JOB_TIMEOUT": "99"}
    file_alone = docora.run(*arguments, env={**env, "REDIS_URL": None})
    assert file_alone.code == 5, file_alone
    assert "127.0.0.1:1" in file_alone.json["error"]
    assert docora.status(link) == "failed"

    result = docora.run(*arguments, env=env)
    assert (result.code, result.data["outcome"]) == (0, "queued")
    assert docora.redis.lrange("rq:queue:from-file", 0, -1) == [link.job_id.encode()]
    assert docora.job(link).timeout == 99


def test_an_env_file_is_named_by_the_option_or_by_the_variable(
    docora: Docora, tmp_path: Path
) -> None:
    """The queue that the file names is shown; what is given wins over the variable."""
    one, other = (
        env_file(tmp_path / name, DOCORA_OPS_QUEUE_NAME=name) for name in ("one", "other")
    )
    for arguments, variable, expected in (
        (["queue", "--env-file", one], None, "one"),
        (["queue"], one, "one"),
        (["queue", "--env-file", one], other, "one"),
        (["queue"], "", "snapshot-queue"),
    ):
        env = {"DOCORA_OPS_ENV_FILE": variable}
        assert docora.run(*arguments, "--json", env=env).data["queue_name"] == expected, arguments
    wrong = docora.run("doctor", "--json", env={"DOCORA_OPS_ENV_FILE": str(tmp_path)})
    assert wrong.code == 2
    assert f"env file {tmp_path} can't be read" in wrong.stdout
    useless = docora.run("help", "--env-file", one)
    assert (useless.code, "No such option: --env-file" in useless.stderr) == (2, True)


@pytest.mark.parametrize("line", ["", "REDIS_URL", "REDIS_URL=", "export REDIS_URL=''"])
def test_a_redis_that_no_setting_names_is_named_on_stderr(
    docora: Docora, tmp_path: Path, line: str
) -> None:
    file = tmp_path / "docora.env"
    # No command gets as far as to ask a Redis.
    file.write_text(f"DATABASE_URL=postgres://u@127.0.0.1:1/d\n{line}\n", encoding="utf-8")
    said = "REDIS_URL is not set: using Redis at localhost:6379/0\n"
    for redis_url in (None, ""):
        env = {"DATABASE_URL": None, "REDIS_URL": redis_url}
        for arguments in (("failed",), ("repair", "--json")):
            result = docora.run(*arguments, "--env-file", str(file), env=env)
            assert result.code == 5, result
            assert result.stderr.count(said) == 1, (arguments, result)
        grouped = docora.run("failed", "--group-by", "app", "--env-file", str(file), env=env)
        assert "REDIS_URL" not in grouped.stderr
    set_here = docora.run("failed", "--env-file", str(file), env={"DATABASE_URL": None})
    assert "REDIS_URL" not in set_here.stderr


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
        *("retry", *link.ids, "--env-file", f"/dev/fd/{reader}"),
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
    "SCAN_CONCURRENCY": ["0", SECRET, "257"],
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
    f"//u:{SECRET}@h/d",
    f"mysql://u:{SECRET}@h/d",
    f"postgres:{SECRET}",
    f"postgres://[{SECRET}",
    f"postgres://u:{SECRET}@[::1/d",
    f"postgres://u:{SECRET}@h:port/d",
    f"postgres://u:{SECRET}@h:99999999/d",
    f"postgres://u:{SECRET}@{SECRET}@h/d",
    f"postgres://u:{SECRET}/{SECRET}@h/d",
    f"postgres://u:{SECRET}@{SECRET}/{SECRET}?#%@h/d",
    f"postgres://u:{SECRET}%zz@h/d",
    f"postgres://u:{SECRET}@h/d?nonsense={SECRET}",
    f"postgres://u:{SECRET}@h/d?sslmode={SECRET}",
    f"postgres://u:{SECRET}@h/d?connect_timeout={SECRET}",
    f"postgres://u:{SECRET}@h/d?connect_timeout=0",
    f"postgres://u:p@h/d?{SECRET}",
    f"postgres://u{STRAY}:{SECRET}@h/d",
    f"host=h password={SECRET}",
]
UNUSABLE_REDIS_URLS = [
    SECRET,
    f"http://u:{SECRET}@h",
    f"redis-sentinel://{SECRET}",
    f"unix://u:{SECRET}@",
    f"redis://u:{SECRET}@h:port",
    f"redis://u:{SECRET}@h:99999999",
    f"redis://u:{SECRET}/{SECRET}@h:6379/0",
    f"redis://u:{SECRET}@{SECRET}/{SECRET}@h:6379/0",
    f"redis://:p#{SECRET}@h:1/0",
    f"redis://u:{SECRET}@h/first",
    f"redis://u:{SECRET}@h?db={SECRET}",
    f"redis://u:{SECRET}@h?{SECRET}=1",
    f"redis://u:{SECRET}@h?family={SECRET}",
    f"redis://u:{SECRET}@h?credential_provider=x",
    f"redis://u:{SECRET}@h?socket_timeout={SECRET}",
    f"redis://u:{SECRET}@127.0.0.1:1?encoding={SECRET}",
    f"redis://u:{SECRET}@127.0.0.1:1?retry={SECRET}",
    f"rediss://u:{SECRET}@h?ssl_cert_reqs={SECRET}",
    f"redis://u:{SECRET}@h{STRAY}:1",
]


@pytest.mark.parametrize(
    ("variable", "values"),
    [("DATABASE_URL", UNUSABLE_DATABASE_URLS), ("REDIS_URL", UNUSABLE_REDIS_URLS)],
)
def test_an_unusable_url_is_named_but_not_shown(
    docora: Docora, variable: str, values: list[str]
) -> None:
    docora.add_link()
    before = docora.dump()
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
            if "\nHint: " not in result.stderr or '  File "' in result.stderr:
                problems.append(f"{value!a} gave {result.stderr!a}")
    assert not problems, "\n".join(problems)
    assert docora.dump() == before


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
        *("retry", *link.ids, "--json"),
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


# What Docora takes, and we read in our own way


def warnings_of(result: Result) -> list[str]:
    """The lines on stderr, but for the one that no worker listens."""
    return [line for line in result.stderr.splitlines() if "no worker listens" not in line]


def test_quotes_that_docker_run_passes_on_are_left_out_with_a_warning(docora: Docora) -> None:
    link = docora.add_link()
    result = docora.run(
        *("retry", *link.ids, "--json"),
        env={
            "DATABASE_URL": f'"{docora.database_url}"',
            "REDIS_URL": f"'{docora.redis_url}'",
            "MAX_RETRY_ATTEMPTS": '"4"',
            "DOCORA_OPS_QUEUE_NAME": '""',
        },
    )
    assert result.code == 0, result
    assert result.data["outcome"] == "queued"
    assert docora.job(link).retries_left == 3
    names = ("DATABASE_URL", "DOCORA_OPS_QUEUE_NAME", "MAX_RETRY_ATTEMPTS", "REDIS_URL")
    assert sorted(warnings_of(result)) == [
        f"Warning: {name} has quotes around its value in the environment: left out"
        for name in names
    ]


@pytest.mark.parametrize(
    ("variable", "options", "ignored"),
    [
        ("DATABASE_URL", "ssl=0&max=10&schema=public", ["max", "schema"]),
        ("DATABASE_URL", "uselibpqcompat=true&sslmode=disable", []),
        ("REDIS_URL", "family=4&connectTimeout=10000", ["connectTimeout"]),
        ("REDIS_URL", "family=0&allowUsernameInURI=true", ["allowUsernameInURI"]),
    ],
)
def test_options_of_node_are_understood_or_ignored_with_a_warning(
    docora: Docora, variable: str, options: str, ignored: list[str]
) -> None:
    link = docora.add_link()
    url = {"DATABASE_URL": docora.database_url, "REDIS_URL": docora.redis_url}[variable]
    result = docora.run("retry", *link.ids, "--json", env={variable: with_options(url, options)})
    assert result.code == 0, result
    assert docora.was_reset(link)
    assert warnings_of(result) == [
        f"Warning: the option {name} in {variable} is ignored: only Docora's own driver knows it"
        for name in ignored
    ]
    if ignored:
        found = docora.run("doctor", "--json", env={variable: with_options(url, options)})
        [check] = [each for each in found.data["checks"] if each["name"] == "settings"]
        assert check["state"] == "warning"
        assert f"the option {ignored[0]} in {variable} is ignored" in check["finding"]


def test_the_family_of_addresses_is_that_of_ioredis(docora: Docora) -> None:
    """The Redis of the tests listens on 127.0.0.1 only."""
    url = docora.redis_url.replace("127.0.0.1", "localhost")
    assert docora.run("queue", env={"REDIS_URL": with_options(url, "family=4")}).code == 0
    other = docora.run("queue", "--json", env={"REDIS_URL": with_options(url, "family=6")})
    assert (other.code, "can't be reached" in other.json["error"]) == (5, True)
