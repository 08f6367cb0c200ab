"""`DATABASE_URL_FILE` and the like: values in files, as Docker and Kubernetes mount secrets."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydantic import SecretStr

from docora_ops.actions.doctor import diagnose
from docora_ops.errors import ConfigurationError
from docora_ops.settings import load_settings
from tests.support.diagnoses import check, examine, make_healthy, not_ok
from tests.support.docora import Docora

SECRET = "s3cr3t"


def test_a_value_is_read_from_its_file_wherever_it_is_named(docora: Docora, tmp_path: Path) -> None:
    for name, url in (("postgres", docora.database_url), ("redis", docora.redis_url)):
        (tmp_path / name).write_text(f"{url}\r\n\n", newline="")
    env_file = tmp_path / "docora.env"
    env_file.write_text(f"DATABASE_URL=postgres://nowhere/x\nREDIS_URL_FILE={tmp_path}/redis\n")
    env = {"DATABASE_URL": None, "REDIS_URL": None, "DATABASE_URL_FILE": f"{tmp_path}/postgres"}
    docora.run("status", "--env-file", str(env_file), env=env).ended(0)


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY"])
def test_a_file_that_gives_no_value_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    file = tmp_path / "secret"
    monkeypatch.setenv(f"{name}_FILE", str(file))
    for content, said in (
        (None, f"{name}_FILE {file} can't be read"),
        (b"\xff" + SECRET.encode(), f"{name}_FILE {file} can't be read"),
        (b"\n", f"{name}_FILE {file} is empty"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=said) as error:
            load_settings().require_encryption_key()
        assert SECRET not in str(error.value)


def test_a_key_whose_file_can_not_be_read_disturbs_only_who_needs_it(docora: Docora) -> None:
    make_healthy(docora)
    env = {"ENCRYPTION_KEY": None, "ENCRYPTION_KEY_FILE": "/nowhere/key"}
    said = "ENCRYPTION_KEY_FILE /nowhere/key can't be read: No such file or directory"
    assert docora.run("status", env=env).code == 0
    found = examine(docora, **env)
    assert (found.code, not_ok(found)) == (0, {"settings": "warning"})
    assert said in check(found, "settings")["finding"]
    docora.run("worker", "--burst", env=env).ended(2, says=f"Error: {said}\n")


def test_doctor_reads_a_key_once_even_if_it_can_not_be_read(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pipe without a writer, each try takes five seconds."""
    read = Mock(side_effect=ConfigurationError("unreadable"))
    monkeypatch.setattr("docora_ops.settings._value_in", read)
    key = {"encryption_key": None, "encryption_key_file": SecretStr("/run/key")}
    *_, _ = diagnose(docora.actions(drift_grace=0, **key).docora)
    read.assert_called_once_with("/run/key", "ENCRYPTION_KEY")


def test_the_key_is_read_from_a_pipe_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"ab" * 32)
    os.close(writer)
    monkeypatch.delenv("ENCRYPTION_KEY", raising=False)
    monkeypatch.setenv("ENCRYPTION_KEY_FILE", f"/dev/fd/{reader}")
    settings = load_settings()
    for _ in range(2):
        assert settings.require_encryption_key() == bytes.fromhex("ab" * 32)
    os.close(reader)


@pytest.mark.parametrize("value", ["postgres://u:s3cr3t@h/d", "s3cr3t" * 10])
def test_a_value_instead_of_a_file_is_hidden(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY_FILE", value)
    settings = load_settings()
    with pytest.raises(ConfigurationError, match="ENCRYPTION_KEY_FILE can't be read") as error:
        settings.require_encryption_key()
    assert SECRET not in f"{error.value}{settings!r}"


def test_having_both_variables_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key, file = "ab" * 32, tmp_path / "key"
    file.write_text(key)
    monkeypatch.setenv("ENCRYPTION_KEY_FILE", str(file))
    env_file = tmp_path / "docora.env"
    env_file.write_text("ENCRYPTION_KEY=0\n")
    assert load_settings(env_file).require_encryption_key() == bytes.fromhex(key)
    env_file.write_text(f"ENCRYPTION_KEY_FILE={tmp_path}\n")
    assert load_settings(env_file).require_encryption_key() == bytes.fromhex(key)
    env_file.write_text(f"ENCRYPTION_KEY=0\nENCRYPTION_KEY_FILE={file}\n")
    with pytest.raises(ConfigurationError, match=f"{env_file} has both"):
        load_settings(env_file)
    monkeypatch.setenv("ENCRYPTION_KEY", key)
    with pytest.raises(ConfigurationError, match="the environment has both"):
        load_settings()


def test_no_more_is_read_than_settings_can_have_and_no_silent_writer_is_awaited_for_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("docora_ops.settings._PATIENCE", 0.1)
    silent, large = tmp_path / "silent", tmp_path / "large"
    os.mkfifo(silent)
    large.write_bytes(b"A=1\n" * 16_385)
    for file, said in (
        (silent, "the pipe did not end within"),
        (large, "it is larger than 64 KiB"),
        (Path("/dev/zero"), "it is neither a regular file nor a pipe"),
        (tmp_path, "it is neither a regular file nor a pipe"),
    ):
        wrong = f"{file} can't be read: {said}"
        monkeypatch.setenv("REDIS_URL_FILE", str(file))
        with pytest.raises(ConfigurationError, match=f"REDIS_URL_FILE {wrong}"):
            load_settings()
        monkeypatch.delenv("REDIS_URL_FILE")
        with pytest.raises(ConfigurationError, match=f"env file {wrong}"):
            load_settings(file)
