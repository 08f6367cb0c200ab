"""Targets in a folder of the test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.docora import Docora

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the file of a target, which only its owner can read."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("docora_ops.settings.SYSTEM_FOLDER", tmp_path / "system")
    own = tmp_path / "docora-ops" / "targets"

    def write(name: str, folder: Path = own, /, **settings: object) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.env"
        file.touch(mode=0o600)
        file.write_text("".join(f"{each}={value}\n" for each, value in settings.items()))
        return file

    return write


@pytest.fixture
def env(docora: Docora, write: Write, tmp_path: Path) -> dict[str, str | None]:
    """The environment of commands: `prod` is this Docora, and protected, `trial` is unreachable."""
    write(
        "prod",
        DATABASE_URL=docora.database_url,
        REDIS_URL=docora.redis_url,
        DOCORA_OPS_PROTECTED="yes",
    )
    nowhere = "u:s3cr3t@127.0.0.1:1"
    write("trial", DATABASE_URL=f"postgres://{nowhere}/d", REDIS_URL=f"redis://{nowhere}")
    return {"XDG_CONFIG_HOME": str(tmp_path), "DATABASE_URL": None, "REDIS_URL": None}
