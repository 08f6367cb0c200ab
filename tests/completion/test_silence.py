"""Whatever goes wrong, nothing is offered, nothing is printed, and the shell does not wait."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.completion.offers import answer
from tests.support.docora import Docora

TICK = 0.02  # in which the kernel counts
LONG = {f"DOCORA_OPS_{name}_TIMEOUT": "3600" for name in ("CONNECT", "STATEMENT", "LOCK")}


@pytest.mark.parametrize(
    "words", [("show", "a"), ("show", "Acme", "o"), ("failed", "--app", "a"), ("progress", "b")]
)
def test_without_servers_or_with_wrong_settings(
    docora: Docora, tmp_path: Path, words: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refusing = {
        "DATABASE_URL": f"postgres://127.0.0.1:{port}/x",
        "REDIS_URL": f"redis://127.0.0.1:{port}",
    }
    for env in (
        refusing,
        {"DATABASE_URL": None, "REDIS_URL": "nonsense"},
        {"DATABASE_URL": "nonsense", "DOCORA_OPS_STATEMENT_TIMEOUT": "many"},
        {"DATABASE_URL": None, "REDIS_URL": None, "DOCORA_OPS_ENV_FILE": "/nowhere"},
        {"DOCORA_OPS_ENV_FILE": str(tmp_path)},
    ):
        assert answer(docora, *words, **env) == "", env
    nothing_set = {"DATABASE_URL": None, "REDIS_URL": None}
    assert answer(docora, "--env-file", "/nowhere", *words, **nothing_set) == ""


@pytest.mark.parametrize("words", [("show", "a"), ("show", "Acme", "o"), ("cancel", "b")])
def test_with_servers_that_accept_and_say_nothing(docora: Docora, words: tuple[str, ...]) -> None:
    """Each of the timeouts is an hour, so that it is the completion which ends."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        env = {"DATABASE_URL": f"postgres://{where}/x?connect_timeout=3600", **LONG}
        assert answer(docora, *words, **env, REDIS_URL=f"redis://{where}") == ""


def test_the_time_counts_from_the_start_of_the_process() -> None:
    program = (
        "import time; began = time.monotonic(); from docora_ops.cli import shell_completion; "
        "print(time.monotonic() - began, shell_completion._age_of_process())"
    )
    began = time.monotonic()
    shown = subprocess.check_output([sys.executable, "-c", program], text=True)
    imports, age = map(float, shown.split())
    assert imports - TICK <= age <= time.monotonic() - began + TICK


def test_with_an_env_file_that_does_not_end(docora: Docora, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert answer(docora, "show", "--env-file", str(tmp_path / "pipe"), "a") == ""


def test_with_a_table_that_another_session_has_locked(docora: Docora) -> None:
    docora.add_app("Acme")
    with docora.connection.transaction():
        docora.connection.execute("LOCK TABLE apps")
        assert answer(docora, "show", "a", **LONG) == ""
