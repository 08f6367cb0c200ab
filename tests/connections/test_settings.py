"""Settings: their variables and defaults, where they are read, and what can't be used."""

import os
import traceback
from pathlib import Path

import pytest

from docora_ops.database import Database
from docora_ops.errors import ConfigurationError
from docora_ops.queue import connect
from docora_ops.settings import LONGEST_RETRY_DELAY, Settings, load_settings
from tests.support.docora import Docora

SECRET = "s3cr3t"
STRAY = os.fsdecode(b"\xff\xfe")
DATABASE_URL = f"postgres://docora:{SECRET}@db.example/docora"
KEY = "0123456789abcdef" * 4


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of our variables is set."""
    for name, setting in Settings.model_fields.items():
        variable = str(setting.validation_alias or name).upper()
        monkeypatch.delenv(variable, raising=False)


def write(path: Path, **settings: str) -> str:
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return str(path)


def shown(error: ConfigurationError) -> str:
    """All that anybody could get to see of an error."""
    return "".join([*traceback.format_exception(error), error.message, error.hint or ""])


@pytest.mark.usefixtures("bare")
def test_the_environment_wins_over_the_file_and_an_empty_variable_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each name and default: tests/help/test_topics.py."""
    before = load_settings().model_dump()
    file = tmp_path / "docora.env"
    write(file, SCAN_CONCURRENCY="2", DOCORA_OPS_LOCK_TIMEOUT="3", LOCK_TIMEOUT="4")
    in_file = before | {"scan_concurrency": 2, "lock_timeout": 3}
    assert load_settings(file).model_dump() == in_file
    monkeypatch.setenv("SCAN_CONCURRENCY", "")
    assert load_settings(file).model_dump() == in_file
    monkeypatch.setenv("SCAN_CONCURRENCY", "5")
    for name in ("lock_timeout", "docora_ops_lock_timeout", "Redis_Url"):  # no names of ours
        monkeypatch.setenv(name, "7")
    assert load_settings(file).model_dump() == before | {"lock_timeout": 3}


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
@pytest.mark.parametrize("key", ["", KEY[1:], f"{KEY[1:]}g"])
def test_a_bad_key_disturbs_only_who_needs_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", key)
    settings = load_settings()
    with pytest.raises(ConfigurationError, match="64 hex digits" if key else "is not set") as error:
        settings.require_encryption_key()
    assert not key or key not in error.value.message


def test_an_env_file_that_cannot_be_read_is_named_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "docora.env"
    for content in (None, f"DATABASE_URL=\udcff{SECRET}\n"):
        if content is not None:
            file.write_bytes(os.fsencode(content))
        with pytest.raises(ConfigurationError, match=str(file)) as error:
            load_settings(file)
        assert SECRET not in shown(error.value)


def test_an_env_file_is_named_by_the_option_or_the_variable(docora: Docora, tmp_path: Path) -> None:
    one, other = (write(tmp_path / name, DOCORA_OPS_BACKEND=name) for name in ("rq", "bullmq"))
    env = {"DOCORA_OPS_ENV_FILE": other, "DOCORA_OPS_BACKEND": None}
    assert docora.run("queue", "--json", env=env).data["backend"] == "bullmq"
    assert docora.run("queue", "--env-file", one, "--json", env=env).data["backend"] == "rq"


@pytest.mark.slow
def test_an_env_file_is_read_from_a_pipe_and_none_unasked(docora: Docora, tmp_path: Path) -> None:
    """As in --env-file <(sops --decrypt docora.env)."""
    write(tmp_path / ".env", DATABASE_URL=docora.database_url)
    env = {"DATABASE_URL": None, "HOME": str(tmp_path)}
    unset = docora.run("failed", "--json", env=env, cwd=tmp_path)
    assert (unset.code, unset.json["error"]) == (2, "DATABASE_URL is not set")
    reader, writer = os.pipe()
    os.write(writer, f"DATABASE_URL={docora.database_url}\n".encode())
    os.close(writer)
    result = docora.run("failed", "--env-file", f"/dev/fd/{reader}", env=env, pass_fds=[reader])
    os.close(reader)
    assert result.code == 0, result


def test_a_redis_that_no_setting_names_is_named_on_stderr(docora: Docora, tmp_path: Path) -> None:
    # No command gets as far as to ask a Redis.
    file = tmp_path / "docora.env"
    file.write_text("DATABASE_URL=postgres://u@127.0.0.1:1/d\nexport REDIS_URL=''\n")
    said = "REDIS_URL is not set: using Redis at localhost:6379/0\n"
    env = {"DATABASE_URL": None, "REDIS_URL": None}
    result = docora.run("repair", "--json", "--env-file", str(file), env=env)
    assert (result.code, result.stderr.count(said)) == (5, 1), result
    set_here = docora.run("failed", "--env-file", str(file), env={"DATABASE_URL": None})
    assert "REDIS_URL" not in set_here.stderr


NAME = "NODE_EXTRA_CA_CERTS"
READ_BY_DOTENV: dict[str, str | None] = {
    "N=a": "a",
    "N = a b ": "a b",
    "export N=a": "a",
    "export N": None,
    "N=a\nN=": "",
    "n=a": None,
    "\ufeffN=a": "a",
    'N="a#b" # c': "a#b",
    "#N=a": None,
    'N=" a "': " a ",
    r'N="a\nb"': "a\nb",
    'N="a\nb"': "a\nb",
    "M='\nN=a\n'\n": None,
}
"""Recorded from dotenv 17.2.3, which Docora locks; N and n stand for the name in both cases."""


@pytest.mark.parametrize("short", READ_BY_DOTENV)
def test_a_file_means_what_it_means_to_docora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    file = tmp_path / "docora.env"
    text = short.replace("N", NAME).replace("n=", f"{NAME.lower()}=")
    file.write_bytes(text.encode())
    # To Docora, too, an empty value is none.
    assert load_settings(file).node_extra_ca_certs == (READ_BY_DOTENV[short] or None)


UNUSABLE = {
    "MAX_RETRY_ATTEMPTS": (SECRET, "0", "7777.5"),
    "DOCORA_OPS_BACKEND": (SECRET, "RQ"),
    "DOCORA_OPS_GIT_PROTOCOLS": (f"{SECRET} https", f"https,,{SECRET}", f"{SECRET}\n", STRAY),
    "DOCORA_OPS_LOCK_TIMEOUT": ("0", "inf"),
    "DATABASE_URL": (
        SECRET,
        f"mysql://u:{SECRET}@h/d",
        f"postgres://u:{SECRET}/{SECRET}@h/d",
        f"postgres://u:{SECRET}@{SECRET}/{SECRET}?#%@h/d",
        f"postgres://u:{SECRET}@h/d?nonsense={SECRET}",
        f"postgres://u:{SECRET}@h:{SECRET}/d",
        f"postgres://u:{SECRET}@h:1,i:65536/d",
        f"postgres://u:{SECRET}@h/d?sslmode={SECRET}",
        f"postgres://u{STRAY}:{SECRET}@h/d",
    ),
    "REDIS_URL": (
        f"http://u:{SECRET}@h",
        f"redis://u:{SECRET}@h:port",
        f"redis://u:{SECRET}/{SECRET}@h:6379/0",
        f"redis://:p#{SECRET}@h:1/0",
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
        _ = (Database(load_settings()), connect(load_settings()))
    assert error.value.hint
    assert SECRET not in shown(error.value)
    assert "7777" not in shown(error.value)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
@pytest.mark.parametrize("password", ["a@b", "a/b", "a#b", "a[b", "a]b", "[a]b", STRAY])
def test_a_url_that_is_quoted_or_whose_password_is_not_percent_encoded_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, name: str, password: str
) -> None:
    """`docker run --env-file` keeps the quotes."""
    scheme = "redis" if name == "REDIS_URL" else "postgres"
    url = f"{scheme}://u:{SECRET}{password}@h:1/0"
    for value, said in ((url, ".* percent-encoded"), (f'"{url}"', "begins with a quotation mark")):
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigurationError, match=f"{name}: {said}") as error:
            load_settings()
        assert SECRET not in shown(error.value)


def test_options_of_node_are_understood_or_ignored(docora: Docora) -> None:
    of_node_pg, of_ioredis = "ssl=false&max=10&schema=public", "family=4&connectTimeout=10000"
    of_redis_py = "decode_responses=true&protocol=3&client_name=x&retry=3"
    joint = "&" if "?" in docora.database_url else "?"
    env = {
        "DATABASE_URL": f"{docora.database_url}{joint}{of_node_pg}",
        "REDIS_URL": f"{docora.redis_url}?{of_ioredis}&{of_redis_py}",
    }
    docora.run("failed", env=env).ended(0)


@pytest.mark.parametrize(
    ("attempts", "base", "delays"),
    [
        (5, 1000, [1, 2, 4, 8]),
        (1, 1000, []),
        (3, 2500, [3, 5]),
        (1000, 86_400_000, [LONGEST_RETRY_DELAY] * 999),
    ],
)
def test_the_delays_double_up_to_a_day(attempts: int, base: int, delays: list[int]) -> None:
    variables = {"MAX_RETRY_ATTEMPTS": attempts, "RETRY_BASE_DELAY_MS": base}
    assert Settings.model_validate(variables).retry_delays == delays
