"""What README prescribes for workers is enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from docora_ops.demo import servers
from docora_ops.demo.receiver import Request
from tests.harness import finish
from tests.prescribed import block, prescribed_role
from tests.proxy import eventually
from tests.snapshots import Snapshots


@pytest.fixture
def limited(snapshots: Snapshots, readme: str, worker_number: int) -> Iterator[str]:
    """The URL of the database for the role that README prescribes for workers."""
    with prescribed_role(snapshots.docora, readme, "docora_worker", worker_number) as docora:
        yield docora.database_url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    with servers.valkey(tmp_path) as url:
        yield url


def test_role_and_user_of_readme_are_enough_for_workers(
    snapshots: Snapshots, limited: str, own_redis: str, readme: str
) -> None:
    """A success, failures up to the last, an open circuit, a link left behind, an empty one."""
    with redis.Redis.from_url(own_redis) as admin, ExitStack() as stack:
        admin.execute_command(*block(readme, "ACL SETUSER docora-worker").split())
        snapshots.docora = stack.enter_context(
            closing(replace(snapshots.docora, redis_url=own_redis))
        )
        link, upstream = snapshots.add_link({"a.txt": "a", "b.txt": "b"})
        missing = snapshots.add_repository(snapshots.add_upstream("octo/gone"), "octo/gone")
        snapshots.docora.connection.execute(
            "UPDATE repositories SET github_url = 'file:///nowhere' WHERE repository_id = %s",
            (missing,),
        )
        lost = snapshots.link(link.app_id, missing)
        left_behind = snapshots.link(
            snapshots.add_app("Left"), link.repository_id, "scanning", retry_count=0
        )

        def answer(request: Request) -> int:
            upstream_is_done = snapshots.received().files.get("b.txt") is not None
            return 500 if request.app == "Left" and not upstream_is_done else 200

        snapshots.receiver.answer = answer
        snapshots.queue(link, max_retry_attempts=2, retry_base_delay_ms=0)
        snapshots.queue(lost, max_retry_attempts=2, retry_base_delay_ms=0)
        admin.config_resetstat()
        url = own_redis.replace("redis://", "redis://docora-worker:choose-one@")
        worker = snapshots.start_worker(
            DATABASE_URL=limited, REDIS_URL=url, CIRCUIT_BREAKER_THRESHOLD="1"
        )
        try:
            for each, status in ((link, "synced"), (lost, "failed"), (left_behind, "synced")):
                eventually(
                    lambda each=each, status=status: snapshots.docora.status(each) == status,  # type: ignore[misc]
                    f"{status}: {snapshots.docora.row(each)}",
                )
            upstream.commit({"a.txt": None})
            snapshots.queue(link)
            eventually(lambda: "a.txt" not in snapshots.received().files, "the deletion")
        finally:
            worker.terminate()
            result = finish(worker)
        assert result.code == 0, result
        assert "permission" not in result.stderr.lower()
        assert [request.event for request in snapshots.received("Left").requests][-1:] == ["create"]
        assert admin.acl_log() == []
