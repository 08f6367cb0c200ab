"""`docora-ops worker`: what it refuses, what it says, and where."""

import os
import threading
from pathlib import Path

import pytest

from tests.support.rows import TestLink
from tests.support.snapshots import KEY, Snapshots

PASSWORD = "hunter2"


@pytest.fixture
def link(snapshots: Snapshots) -> TestLink:
    """Its job waits."""
    link = snapshots.docora.add_link()
    snapshots.queue(link)
    return link


def assert_untouched(snapshots: Snapshots, link: TestLink) -> None:
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.docora.status(link) == "pending_snapshot"
    assert snapshots.docora.redis.keys("rq:worker*") == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ENCRYPTION_KEY": None}, "ENCRYPTION_KEY is not set"),
        ({"DATABASE_URL": f"mysql://ada:{PASSWORD}@db/docora"}, "DATABASE_URL: must look like"),
        ({"PATH": ""}, "git is not on PATH"),
        ({"REPOS_BASE_PATH": "/dev/null/repos"}, "REPOS_BASE_PATH '/dev/null/repos' can't be"),
    ],
)
def test_what_can_not_work_is_refused_before_a_job_is_taken(
    snapshots: Snapshots, link: TestLink, changes: dict[str, str | None], sentence: str
) -> None:
    result = snapshots.work(**changes)
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert sentence in result.stderr
    assert "Hint: " in result.stderr
    for secret in (PASSWORD, KEY.hex()):
        assert secret not in result.stderr
    assert_untouched(snapshots, link)


def test_a_name_that_is_taken_is_refused(snapshots: Snapshots) -> None:
    snapshots.docora.add_worker("mine-2")
    result = snapshots.work("--name", "mine", "--concurrency", "2")
    assert (result.code, result.stdout) == (4, "")
    assert "Error: a worker named 'mine-2' is at work already" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_extra_it_says_how_to_install_it(
    snapshots: Snapshots, link: TestLink, tmp_path: Path
) -> None:
    (tmp_path / "cryptography.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'cryptography'\", name='cryptography')\n"
    )
    result = snapshots.work(PYTHONPATH=str(tmp_path))
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr == (
        "Error: the worker's packages are not installed (cryptography is missing)\n"
        "Hint: in a clone: pipx install --force '.[worker]', or [worker] behind a wheel's name\n"
    )
    assert_untouched(snapshots, link)
    # And nothing else needs it.
    env = {"PYTHONPATH": str(tmp_path)}
    assert snapshots.docora.run("retry-all-failed", "--yes", env=env).code == 0


def test_settings_of_an_env_file_that_can_be_read_only_once_reach_the_jobs(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    for link in snapshots.add_links(["One", "Two"]).values():
        snapshots.queue(link)
    environment = snapshots.environment()
    names = (
        *("DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY", "REPOS_BASE_PATH"),
        "DOCORA_OPS_GIT_PROTOCOLS",
    )
    path = tmp_path / "docora.env"
    content = "".join(f"{name}={environment[name]}\n" for name in names)
    os.mkfifo(path)
    threading.Thread(target=path.write_text, args=(content,), daemon=True).start()
    arguments = ("worker", "--env-file", str(path), "--burst", "--concurrency", "2")
    result = snapshots.docora.run(*arguments, env=dict.fromkeys(names, None))
    assert (result.code, result.stdout) == (0, ""), result.stderr
    assert snapshots.docora.statuses() == {"synced": 2}
    assert (snapshots.clone() / "HEAD").exists()
