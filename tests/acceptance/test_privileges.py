"""What README prescribes is enough, and each part of it is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from docora_ops.demo import servers
from tests.harness import Docora
from tests.prescribed import block


def do_everything(docora: Docora, owner: Docora) -> None:
    """Each command that needs both servers, with all that it can."""
    links = [owner.add_link() for _ in range(3)]
    owner.add_deliveries(links[0], 3)
    lost, orphan, twice = owner.add_link("pending_snapshot"), owner.add_link(), owner.add_link()
    owner.queue_job(orphan)
    owner.delete_link(orphan)
    owner.queue_job(twice)
    owner.redis.rpush(owner.queue.key, twice.job_id)
    owner.age_links()
    first, second, third = ((link.app_id, link.repository_id) for link in links)
    for arguments in (
        ("failed",),
        ("failed", "--group-by", "app"),
        ("failed", "--group-by", "error"),
        ("queue",),
        ("show", *first),
        ("repair", "--dry-run"),
        ("repair",),
        ("repair", lost.app_id, lost.repository_id),
        ("retry", *first, "--dry-run"),
        ("retry", *first, "--front", "--reset-circuit"),
        ("retry-all-failed", "--dry-run", "--skip-open-circuits"),
        ("retry-all-failed", "--error", "http", "--app", second[0]),
        ("resync", *first, "--dry-run"),
        ("resync", *first),
        ("resync", third[0], "--all", "--yes"),
        ("schedule", "--dry-run"),
        ("schedule",),
    ):
        result = docora.run(*arguments, env={"DOCORA_OPS_DRIFT_GRACE": "0"})
        assert result.code == 0, (arguments, result)
    assert owner.doubled_jobs() == []
    assert orphan.job_id not in owner.waiting()
    assert set(owner.statuses()) == {"pending_snapshot"}
    assert owner.deliveries(links[0]) == 0


def test_the_role_of_readme_is_enough_for_everything(docora: Docora, role: Docora) -> None:
    do_everything(role, docora)


@pytest.mark.parametrize(
    ("revoked", "arguments"),
    [
        ("SELECT (app_name) ON apps", ("retry-all-failed",)),
        ("SELECT (owner) ON repositories", ("retry", "APP", "REPO")),
        (
            "UPDATE (consecutive_failures) ON repositories",
            ("retry", "APP", "REPO", "--reset-circuit"),
        ),
        ("SELECT (status) ON app_repositories", ("retry-all-failed",)),
        ("UPDATE (last_error) ON app_repositories", ("retry-all-failed",)),
        ("DELETE ON app_delivered_files", ("resync", "APP", "REPO")),
        ("SELECT (last_scanned_at) ON app_repositories", ("schedule",)),
        ("SELECT (created_at) ON app_repositories", ("failed",)),
        ("SELECT (delivered_at) ON app_delivered_files", ("show", "APP", "REPO")),
        ("SELECT (commit_sha) ON repository_snapshots", ("show", "APP", "REPO")),
        ("SELECT (created_at) ON app_repositories", ("repair",)),
    ],
)
def test_a_missing_grant_is_named_and_nothing_changes(
    docora: Docora, role: Docora, worker_number: int, revoked: str, arguments: tuple[str, ...]
) -> None:
    link = docora.add_link()
    docora.connection.execute(f"REVOKE {revoked} FROM docora_ops_{worker_number}".encode())
    names = {"APP": link.app_id, "REPO": link.repository_id}
    result = role.run(*(names.get(argument, argument) for argument in arguments))
    assert result.code == 5, result
    assert "permission denied for table" in result.stderr
    assert "README" in result.stderr
    assert docora.status(link) == "failed"
    assert docora.waiting() == []


def test_what_only_reading_commands_read_the_others_do_without(
    docora: Docora, role: Docora, worker_number: int
) -> None:
    link = docora.add_link()
    name = f"docora_ops_{worker_number}"
    for revoked in (
        "SELECT (last_scanned_at, created_at) ON app_repositories",
        "SELECT (consecutive_failures) ON repositories",
        "SELECT (delivered_at) ON app_delivered_files",
        "ALL ON repository_snapshots",
        "ALL ON snapshot_files",
    ):
        docora.connection.execute(f"REVOKE {revoked} FROM {name}".encode())
    for arguments in (
        ("retry", link.app_id, link.repository_id),
        ("retry-all-failed",),
        ("resync", link.app_id, link.repository_id),
        ("resync", link.app_id, "--all", "--yes"),
    ):
        result = role.run(*arguments)
        assert result.code == 0, (arguments, result)


def test_to_wait_for_the_result_takes_no_further_grant(docora: Docora, role: Docora) -> None:
    link = docora.add_link()
    result = role.run("retry", link.app_id, link.repository_id, "--wait", "--timeout", "1")
    assert result.code == 8, result


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    with servers.valkey(tmp_path) as url:
        yield url


def test_the_redis_user_of_readme_is_enough_for_everything(
    docora: Docora, own_redis: str, readme: str
) -> None:
    with redis.Redis.from_url(own_redis) as admin:
        admin.execute_command(*block(readme, "ACL SETUSER").split())
        owner = replace(docora, redis_url=own_redis)
        url = own_redis.replace("redis://", "redis://docora-ops:choose-one@")
        limited = replace(docora, redis_url=url)
        owner.add_worker()
        # Leftovers and live jobs of each kind make the script use each of its commands.
        links = [owner.add_link() for _ in range(4)]
        owner.enqueue(links[0].job_id)
        owner.start_job(links[1].job_id, heartbeat=-10)
        owner.schedule_job(links[2].job_id)
        owner.redis.rpush(f"{owner.queue.key}:intermediate", links[3].job_id)
        for arguments in (
            ("retry", links[0].app_id, links[0].repository_id, "--front"),
            ("retry-all-failed",),
        ):
            result = limited.run(*arguments)
            assert result.code == 0, result
        operation = re.search(r"bulk_\w+", result.stderr)
        assert operation
        assert limited.run("progress", operation[0]).code == 0
        assert operation[0] in limited.run("operations").stdout
        assert limited.run("cancel", operation[0]).code == 4
        do_everything(limited, owner)
        assert len(limited.run("history").stdout.splitlines()) > 2
        limited.close()
        owner.close()
