import os
import traceback
from pathlib import Path

import pytest
from rq import Retry

from docora_ops.errors import ConfigurationError
from docora_ops.settings import LONGEST_RETRY_DELAY, Settings, load_settings

DATABASE_URL = "postgres://docora:hunter2@db.example/docora"
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
KEY = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of our variables is set, and the working directory is empty."""
    for name in os.environ:
        if name in VARIABLES or name.startswith(("DATABASE_", "REDIS_", "DOCORA_", "ENCRYPTION_")):
            monkeypatch.delenv(name)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / "docora.env"


def test_only_redis_has_a_default_url() -> None:
    settings = load_settings()
    assert settings.database_url is None
    assert settings.redis_url.get_secret_value() == "redis://localhost:6379"
    assert settings.encryption_key is None


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_setting_has_a_default_and_a_variable_of_its_own(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    field, default, text, value = VARIABLES[variable]
    monkeypatch.setenv(variable, text)
    changed = load_settings().model_dump()
    monkeypatch.delenv(variable)
    assert changed.pop(field) == value
    unchanged = load_settings().model_dump()
    assert unchanged.pop(field) == default != value
    assert changed == unchanged


def test_every_setting_is_tested_here() -> None:
    fields = {field for field, *_ in VARIABLES.values()}
    others = {"database_url", "redis_url", "encryption_key"}
    assert set(Settings.model_fields) == fields | others


def test_the_encryption_key_is_32_bytes_in_hex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", KEY)
    assert load_settings().require_encryption_key() == bytes.fromhex(KEY)
    assert KEY not in repr(load_settings())


def test_a_missing_encryption_key_is_named_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"^ENCRYPTION_KEY is not set$") as error:
        load_settings().require_encryption_key()
    assert "--env-file" in (error.value.hint or "")


@pytest.mark.parametrize("key", [KEY[1:], f"{KEY}0", f"{KEY[1:]}g", f"{KEY[1:]}\n", "hunter2"])
def test_a_malformed_encryption_key_disturbs_only_who_needs_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", key)
    settings = load_settings()
    with pytest.raises(ConfigurationError, match="64 hex digits") as error:
        settings.require_encryption_key()
    assert key not in error.value.message


@pytest.mark.parametrize("variable", [name for name in VARIABLES if name.startswith("DOCORA_OPS")])
def test_our_own_variables_need_their_prefix(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable.removeprefix("DOCORA_OPS_"), VARIABLES[variable][2])
    assert load_settings().model_dump() == Settings().model_dump()


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgres://u:p%40ss@db.example:5433/docora?sslmode=require"),
        ("DATABASE_URL", "postgresql://u:p%40ss@db.example:5433/docora?sslmode=require"),
        ("REDIS_URL", "redis://localhost"),
        ("REDIS_URL", "redis://:password@redis.example:6380/2"),
        ("REDIS_URL", "rediss://user:p%40ss@redis.example:6380/2?ssl_cert_reqs=none"),
        ("REDIS_URL", "unix:///run/redis.sock?db=1"),
    ],
)
def test_a_url_of_any_known_scheme_is_taken_as_it_stands(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv(variable, url)
    secret = getattr(load_settings(), variable.lower())
    assert secret.get_secret_value() == url


# Env files


@pytest.mark.parametrize(
    ("line_end", "encoding"), [("\n", "utf-8"), ("\r\n", "utf-8"), ("\n", "utf-8-sig")]
)
def test_an_env_file_is_read_when_asked_for(env_file: Path, line_end: str, encoding: str) -> None:
    """Also as editors on Windows write it, with a byte order mark."""
    lines = (
        "# Docora",
        f'DATABASE_URL="{DATABASE_URL}"',
        "export REDIS_URL='redis://redis.example:6379'",
        "MAX_RETRY_ATTEMPTS=7 # tries",
        "ENCRYPTION_KEY=0123456789abcdef",
        "DOCORA_OPS_UNKNOWN=1",
        "DOCORA_OPS_GIT_PROTOCOLS=ssh",
    )
    env_file.write_bytes("".join(line + line_end for line in lines).encode(encoding))
    settings = load_settings(env_file)
    assert settings.require_database_url().get_secret_value() == DATABASE_URL
    assert settings.redis_url.get_secret_value() == "redis://redis.example:6379"
    assert (settings.max_retry_attempts, settings.git_protocols) == (7, "ssh")


def test_a_password_with_dollars_is_taken_from_an_env_file_as_it_stands(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "replaced")
    url = "postgres://u:a$WORD-${WORD}-$$@db.example/docora"
    env_file.write_text(f"DATABASE_URL={url}\n")
    assert load_settings(env_file).require_database_url().get_secret_value() == url


@pytest.mark.parametrize(("in_file", "set_here", "value"), [("many", "2", 2), ("9", "", 9)])
def test_the_environment_wins_unless_it_is_empty_whatever_the_file_holds(
    monkeypatch: pytest.MonkeyPatch, env_file: Path, in_file: str, set_here: str, value: int
) -> None:
    env_file.write_text(f"MAX_RETRY_ATTEMPTS={in_file}\n")
    monkeypatch.setenv("MAX_RETRY_ATTEMPTS", set_here)
    assert load_settings(env_file).max_retry_attempts == value


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL", *VARIABLES])
def test_an_empty_variable_is_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, env_file: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, "")
    assert load_settings().model_dump() == Settings().model_dump()
    monkeypatch.delenv(variable)
    env_file.write_text(f"{variable}=\n")
    assert load_settings(env_file).model_dump() == Settings().model_dump()


@pytest.mark.parametrize("content", [None, b"DATABASE_URL=\xff\xfehunter2\n"])
def test_an_env_file_that_cannot_be_read_is_named_and_not_shown(
    env_file: Path, content: bytes | None
) -> None:
    if content is not None:
        env_file.write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        load_settings(env_file)
    assert str(env_file) in error.value.message
    assert "hunter2" not in shown(error.value)


# Unusable values


def shown(error: ConfigurationError) -> str:
    """All that anybody could get to see of an error."""
    return "".join([*traceback.format_exception(error), error.message, error.hint or ""])


UNUSABLE = {
    "MAX_RETRY_ATTEMPTS": ("hunter2", "0", "-7777", "7777777", "7777.5"),
    "RETRY_BASE_DELAY_MS": ("-7777", "777777777", "hunter2"),
    "SCAN_INTERVAL_MS": ("0", "-7777", "hunter2"),
    "RESCAN_INTERVAL_MS": ("-7777", "777777777777", "hunter2"),
    "DOCORA_OPS_BACKEND": ("hunter2", "RQ", "bullmq,rq"),
    "DOCORA_OPS_GIT_PROTOCOLS": ("hunter2 https", "https,,hunter2", "hunter2\n"),
    "DOCORA_OPS_JOB_TIMEOUT": ("0", "hunter2", "7777777"),
    "DOCORA_OPS_CONNECT_TIMEOUT": ("0", "7777777"),
    "DOCORA_OPS_STATEMENT_TIMEOUT": ("0", "7777777"),
    "DOCORA_OPS_LOCK_TIMEOUT": ("0", "7777777", "inf"),
    "DOCORA_OPS_DRIFT_GRACE": ("-1", "3601"),
}


@pytest.mark.parametrize(
    ("variable", "value"),
    [(variable, value) for variable, values in UNUSABLE.items() for value in values],
    ids=ascii,
)
@pytest.mark.parametrize("source", ["environment", "file"])
def test_an_unusable_value_is_refused_by_its_name_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, env_file: Path, source: str, variable: str, value: str
) -> None:
    if source == "environment":
        monkeypatch.setenv(variable, value)
        env_file.touch()
    else:
        env_file.write_text(
            f"{variable}='{value}'\n" if "'" not in value else f'{variable}="{value}"'
        )
    with pytest.raises(ConfigurationError) as error:
        load_settings(env_file)
    assert variable in error.value.message
    assert "hunter2" not in shown(error.value)
    assert "7777" not in shown(error.value)


def test_the_urls_are_not_shown_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", DATABASE_URL)
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@redis.example")
    settings = load_settings()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hunter2" not in text


# The job's tries


@pytest.mark.parametrize(
    ("attempts", "base", "delays"),
    [
        (5, 1000, [1, 2, 4, 8]),
        (1, 1000, []),
        (2, 1000, [1]),
        (3, 2500, [3, 5]),
        (4, 100, [1, 1, 1]),
        (4, 0, [0, 0, 0]),
        (4, 30_000_000, [30_000, 60_000, 86_400]),
        (3, 86_400_000, [86_400, 86_400]),
    ],
)
def test_the_delays_double_from_the_base_and_there_is_one_less_than_attempts(
    attempts: int, base: int, delays: list[int]
) -> None:
    settings = Settings(max_retry_attempts=attempts, retry_base_delay_ms=base)
    assert settings.retry_delays == delays
    if delays:
        assert Retry(max=len(delays), interval=delays).intervals == delays


def test_many_attempts_never_wait_longer_than_a_day() -> None:
    delays = Settings(max_retry_attempts=1000).retry_delays
    assert len(delays) == 999
    assert max(delays) == LONGEST_RETRY_DELAY
    assert delays == sorted(delays)
