"""Settings: their variables and defaults, where they are read, and what can't be used."""

import os
import traceback
from pathlib import Path

import pytest
from rq import Retry

from docora_ops.database import Database
from docora_ops.errors import ConfigurationError
from docora_ops.queue import connect
from docora_ops.settings import LONGEST_RETRY_DELAY, Settings, load_settings
from tests.support.docora import Docora

SECRET = "s3cr3t"
STRAY = os.fsdecode(b"\xff\xfe")
DATABASE_URL = f"postgres://docora:{SECRET}@db.example/docora"
KEY = "0123456789abcdef" * 4
VARIABLES: dict[str, tuple[str, object, str, object]] = {
    "MAX_RETRY_ATTEMPTS": ("max_retry_attempts", 5, "3", 3),
    "RETRY_BASE_DELAY_MS": ("retry_base_delay_ms", 1000, "250", 250),
    "SCAN_INTERVAL_MS": ("scan_interval_ms", 60_000, "120000", 120_000),
    "RESCAN_INTERVAL_MS": ("rescan_interval_ms", 300_000, "60000", 60_000),
    "DOCORA_OPS_BACKEND": ("backend", None, "bullmq", "bullmq"),
    "DOCORA_OPS_JOB_TIMEOUT": ("job_timeout", 3600, "60", 60),
    "DOCORA_OPS_CONNECT_TIMEOUT": ("connect_timeout", 5, "1", 1),
    "DOCORA_OPS_STATEMENT_TIMEOUT": ("statement_timeout", 30, "2", 2),
    "DOCORA_OPS_LOCK_TIMEOUT": ("lock_timeout", 5, "3", 3),
    "DOCORA_OPS_DRIFT_GRACE": ("drift_grace", 5, "0", 0),
    "REPOS_BASE_PATH": ("repos_base_path", Path("/data/repos"), "/srv/clones", Path("/srv/clones")),
    "CIRCUIT_BREAKER_THRESHOLD": ("circuit_breaker_threshold", 5, "2", 2),
    "CIRCUIT_BREAKER_COOLDOWN_MS": ("circuit_breaker_cooldown_ms", 1_800_000, "500", 500),
    "SCAN_CONCURRENCY": ("scan_concurrency", 5, "2", 2),
    "NODE_EXTRA_CA_CERTS": ("node_extra_ca_certs", None, "/a.pem", "/a.pem"),
    "GIT_SSL_CAINFO": ("git_ssl_cainfo", None, "/b.pem", "/b.pem"),
    "SSL_CERT_FILE": ("ssl_cert_file", None, "/c.pem", "/c.pem"),
    "SSL_CERT_DIR": ("ssl_cert_dir", None, "/d", "/d"),
    "BINARY_CHUNK_THRESHOLD_BYTES": ("binary_chunk_threshold_bytes", 1_048_576, "100", 100),
    "BINARY_CHUNK_SIZE_BYTES": ("binary_chunk_size_bytes", 524_288, "50", 50),
    "DOCORA_OPS_GIT_PROTOCOLS": ("git_protocols", "https", "https,ssh", "https,ssh"),
    "DOCORA_OPS_GIT_TIMEOUT": ("git_timeout", 1800, "9", 9),
}
"""The setting of each variable, its default, and a text with the value that comes of it."""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of our variables is set."""
    for name in os.environ:
        if name in VARIABLES or name.startswith(("DATABASE_", "REDIS_", "DOCORA_", "ENCRYPTION_")):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "docora.env"


def write(path: Path, **settings: str) -> str:
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return str(path)


def shown(error: ConfigurationError) -> str:
    """All that anybody could get to see of an error."""
    return "".join([*traceback.format_exception(error), error.message, error.hint or ""])


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("variable", VARIABLES)
def test_each_setting_has_a_default_and_a_variable_of_its_own(
    monkeypatch: pytest.MonkeyPatch, file: Path, variable: str
) -> None:
    field, default, text, value = VARIABLES[variable]
    before = load_settings().model_dump()
    assert before[field] == default != value
    write(file, **{variable: text})
    assert load_settings(file).model_dump() == before | {field: value}
    monkeypatch.setenv(variable, "")  # an empty variable counts as unset
    assert load_settings().model_dump() == before
    monkeypatch.setenv(variable, text)
    assert load_settings().model_dump() == before | {field: value}
    monkeypatch.delenv(variable)
    monkeypatch.setenv(variable.removeprefix("DOCORA_OPS_"), text)
    assert (load_settings().model_dump() == before) == variable.startswith("DOCORA_OPS_")


@pytest.mark.usefixtures("bare")
def test_every_setting_is_tested_and_only_redis_has_a_default_url() -> None:
    fields = {field for field, *_ in VARIABLES.values()}
    assert set(Settings.model_fields) == fields | {"database_url", "redis_url", "encryption_key"}
    settings = load_settings()
    assert (settings.database_url, settings.encryption_key) == (None, None)
    assert settings.redis_url.get_secret_value() == "redis://localhost:6379"


@pytest.mark.usefixtures("bare")
def test_secrets_are_not_shown_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", DATABASE_URL)
    monkeypatch.setenv("REDIS_URL", f"redis://:{SECRET}@redis.example")
    monkeypatch.setenv("ENCRYPTION_KEY", KEY)
    settings = load_settings()
    assert settings.require_encryption_key() == bytes.fromhex(KEY)
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert SECRET not in text
        assert KEY not in text


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("key", ["", KEY[1:], f"{KEY}0", f"{KEY[1:]}g", f"{KEY[1:]}\n", SECRET])
def test_an_unusable_encryption_key_disturbs_only_who_needs_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", key)
    settings = load_settings()
    with pytest.raises(ConfigurationError, match="64 hex digits" if key else "is not set") as error:
        settings.require_encryption_key()
    assert not key or key not in error.value.message


# Env files


@pytest.mark.parametrize("content", [None, f"DATABASE_URL=\udcff{SECRET}\n"])
def test_an_env_file_that_cannot_be_read_is_named_and_not_shown(
    file: Path, content: str | None
) -> None:
    if content is not None:
        file.write_bytes(os.fsencode(content))
    with pytest.raises(ConfigurationError) as error:
        load_settings(file)
    assert str(file) in error.value.message
    assert SECRET not in shown(error.value)


def test_an_env_file_is_named_by_the_option_or_the_variable(docora: Docora, tmp_path: Path) -> None:
    """What is given wins over the variable."""
    one, other = (write(tmp_path / name, DOCORA_OPS_BACKEND=name) for name in ("rq", "bullmq"))
    for arguments, variable, expected in (
        (["queue", "--env-file", other], None, "bullmq"),
        (["queue"], other, "bullmq"),
        (["queue", "--env-file", one], other, "rq"),
        (["queue"], "", "rq"),
    ):
        env = {"DOCORA_OPS_ENV_FILE": variable, "DOCORA_OPS_BACKEND": None}
        assert docora.run(*arguments, "--json", env=env).data["backend"] == expected, arguments
    wrong = docora.run("doctor", "--json", env={"DOCORA_OPS_ENV_FILE": str(tmp_path)})
    assert wrong.code == 2
    assert f"env file {tmp_path} can't be read" in wrong.stdout


def test_an_env_file_through_a_pipe_is_read_and_no_other_unasked(
    docora: Docora, tmp_path: Path
) -> None:
    """As in --env-file <(sops --decrypt docora.env)."""
    link = docora.add_link()
    for name in (".env", "docora.env"):
        write(tmp_path / name, DATABASE_URL=docora.database_url)
    env = {"DATABASE_URL": None, "HOME": str(tmp_path)}
    unset = docora.run("retry", *link.ids, "--json", env=env, cwd=tmp_path)
    assert (unset.code, unset.json["error"]) == (2, "DATABASE_URL is not set")
    reader, writer = os.pipe()
    os.write(writer, f"DATABASE_URL={docora.database_url}\n".encode())
    os.close(writer)
    piped = ("--env-file", f"/dev/fd/{reader}")
    result = docora.run("retry", *link.ids, *piped, env=env, pass_fds=[reader])
    os.close(reader)
    assert result.code == 0, result
    assert docora.was_reset(link)


@pytest.mark.parametrize("line", ["", "REDIS_URL", "export REDIS_URL=''"])
def test_a_redis_that_no_setting_names_is_named_on_stderr(
    docora: Docora, file: Path, line: str
) -> None:
    # No command gets as far as to ask a Redis.
    file.write_text(f"DATABASE_URL=postgres://u@127.0.0.1:1/d\n{line}\n")
    said = "REDIS_URL is not set: using Redis at localhost:6379/0\n"
    env = {"DATABASE_URL": None, "REDIS_URL": None}
    result = docora.run("repair", "--json", "--env-file", str(file), env=env)
    assert (result.code, result.stderr.count(said)) == (5, 1), result
    set_here = docora.run("failed", "--env-file", str(file), env={"DATABASE_URL": None})
    assert "REDIS_URL" not in set_here.stderr


# What can't be used

UNUSABLE = {
    "MAX_RETRY_ATTEMPTS": (SECRET, "0", "-7777", "7777777", "7777.5", "7" * 30),
    "RETRY_BASE_DELAY_MS": ("-7777", "777777777", SECRET, "7" * 400),
    "SCAN_INTERVAL_MS": ("0", "-7777", SECRET),
    "SCAN_CONCURRENCY": ("0", "7777"),
    "DOCORA_OPS_BACKEND": (SECRET, "RQ", "bullmq,rq"),
    "DOCORA_OPS_GIT_PROTOCOLS": (f"{SECRET} https", f"https,,{SECRET}", f"{SECRET}\n", STRAY),
    "DOCORA_OPS_JOB_TIMEOUT": ("0", SECRET, "7777777"),
    "DOCORA_OPS_LOCK_TIMEOUT": ("0", "7777777", "inf"),
    "DOCORA_OPS_DRIFT_GRACE": ("-1", "3601"),
    "DATABASE_URL": (
        SECRET,
        f"mysql://u:{SECRET}@h/d",
        f"postgres://[{SECRET}",
        f"postgres://u:{SECRET}/{SECRET}@h/d",
        f"postgres://u:{SECRET}@{SECRET}/{SECRET}?#%@h/d",
        f"postgres://u:{SECRET}%zz@h/d",
        f"postgres://u:{SECRET}@h/d?nonsense={SECRET}",
        f"postgres://u:p@h/d?{SECRET}",
        f"postgres://u{STRAY}:{SECRET}@h/d",
        f"host=h password={SECRET}",
    ),
    "REDIS_URL": (
        SECRET,
        f"http://u:{SECRET}@h",
        f"unix://u:{SECRET}@",
        f"redis://u:{SECRET}@h:port",
        f"redis://u:{SECRET}/{SECRET}@h:6379/0",
        f"redis://:p#{SECRET}@h:1/0",
        f"redis://u:{SECRET}@h/first",
        f"redis://u:{SECRET}@h?db={SECRET}",
        f"redis://u:{SECRET}@h?{SECRET}=1",
        f"redis://u:{SECRET}@h?socket_timeout={SECRET}",
        f"rediss://u:{SECRET}@h?ssl_cert_reqs={SECRET}",
        f"redis://u:{SECRET}@h{STRAY}:1",
    ),
}


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("variable", "value"),
    [(variable, value) for variable, values in UNUSABLE.items() for value in values],
    ids=ascii,
)
def test_an_unusable_value_is_refused_by_its_name_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    for name, each in {"DATABASE_URL": "postgres://u@h/d", variable: value}.items():
        monkeypatch.setenv(name, each)
    with pytest.raises(ConfigurationError, match=variable) as error:
        _use()
    assert error.value.hint
    assert SECRET not in shown(error.value)
    assert "7777" not in shown(error.value)


def _use() -> None:
    settings = load_settings()
    Database(settings)
    connect(settings)


def test_unusable_settings_are_all_named_at_once_and_nothing_is_changed(docora: Docora) -> None:
    docora.add_link()
    before = docora.dump()
    values = {name: choice[0] for name, choice in UNUSABLE.items()}
    result = docora.run("retry-all-failed", "--json", env=values)
    assert docora.dump() == before
    assert (result.code, result.json["code"]) == (2, "configuration"), result
    assert all(name in result.json["error"] for name in values)
    assert SECRET not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


# What Docora takes, and we read in our own way


@pytest.mark.parametrize(
    ("variable", "options"),
    [
        ("DATABASE_URL", "ssl=0&max=10&schema=public"),
        ("DATABASE_URL", "uselibpqcompat=true&sslmode=disable"),
        ("REDIS_URL", "family=4&connectTimeout=10000"),
        ("REDIS_URL", "decode_responses=true&protocol=3&client_name=x&retry=3&encoding=x"),
    ],
)
def test_options_of_node_are_understood_or_ignored(
    docora: Docora, variable: str, options: str
) -> None:
    link = docora.add_link()
    url = {"DATABASE_URL": docora.database_url, "REDIS_URL": docora.redis_url}[variable]
    joint = "&" if "?" in url else "?"
    result = docora.run("retry", *link.ids, "--json", env={variable: f"{url}{joint}{options}"})
    assert result.code == 0, result
    assert docora.was_reset(link)


@pytest.mark.parametrize(
    ("attempts", "base", "delays"),
    [
        (5, 1000, [1, 2, 4, 8]),
        (1, 1000, []),
        (3, 2500, [3, 5]),
        (4, 100, [1, 1, 1]),
        (4, 0, [0, 0, 0]),
        (4, 30_000_000, [30_000, 60_000, 86_400]),
        (1000, 86_400_000, [LONGEST_RETRY_DELAY] * 999),
    ],
)
def test_the_delays_double_from_the_base_up_to_a_day(
    attempts: int, base: int, delays: list[int]
) -> None:
    settings = Settings(max_retry_attempts=attempts, retry_base_delay_ms=base)
    assert settings.retry_delays == delays
    if delays:
        assert Retry(max=len(delays), interval=delays).intervals == delays
