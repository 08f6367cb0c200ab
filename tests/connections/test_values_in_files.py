"""Secrets in files that are named as their variables, as Docker and Kubernetes mount them."""

from pathlib import Path

import pytest

from docora_ops.errors import ConfigurationError
from docora_ops.settings import load_settings
from tests.support.docora import Docora


def test_secrets_are_read_from_files_and_the_environment_and_the_env_file_win(
    docora: Docora, tmp_path: Path
) -> None:
    (tmp_path / "DATABASE_URL").write_text(f"{docora.database_url}\n")
    (tmp_path / "REDIS_URL").write_text("redis://127.0.0.1:1")
    env_file = tmp_path / "docora.env"
    env_file.write_text(f"REDIS_URL={docora.redis_url}\n")
    env = {"DATABASE_URL": None, "REDIS_URL": None, "DOCORA_OPS_SECRETS_DIR": str(tmp_path)}
    docora.run("status", "--env-file", str(env_file), env=env).ended(0)
    docora.run("status", env={**env, "REDIS_URL": docora.redis_url}).ended(0)


def test_a_folder_that_gives_no_secret_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCORA_OPS_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/none is no folder"):
        load_settings()
    monkeypatch.setenv("DOCORA_OPS_SECRETS_DIR", str(tmp_path))
    (tmp_path / "ENCRYPTION_KEY").write_bytes(b"\xffs3cr3t")
    monkeypatch.delenv("ENCRYPTION_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=str(tmp_path)) as error:
        load_settings()
    assert "s3cr3t" not in str(error.value)
