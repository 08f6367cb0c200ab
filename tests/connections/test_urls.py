"""What can be seen of the URLs of the servers, before any server is asked."""

import pytest
from pydantic import SecretStr

from docora_ops.database import Database
from docora_ops.queue import connect
from docora_ops.queue.redis_client import describe
from docora_ops.settings import Settings


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("postgres://docora:hunter2@db.example:5433/docora", "docora on db.example"),
        ("postgres://u:hunter%32@db.example/d?sslmode=verify-full", "d on db.example"),
        ("postgres:///docora?host=/run/postgresql&user=u&password=hunter2", "docora on /run/"),
        ("postgres://u:hunter2@one.example,two.example/docora", "docora on one.example"),
    ],
)
def test_a_database_is_named_by_host_and_name_only(url: str, target: str) -> None:
    text = Database(Settings(database_url=SecretStr(url))).target
    assert text.startswith(target)
    assert "hunter" not in text
    assert "%32" not in text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://localhost", "localhost:6379/0"),
        ("rediss://docora:hunter%32@redis.example", "redis.example:6379/0"),
        ("redis://redis.example:6380/3?db=1&password=hunter2", "redis.example:6380/3"),
        ("redis://:hunter2@[::1]", "[::1]:6379/0"),
        ("unix://docora:hunter2@/run/redis/0?db=2", "/run/redis/0, database 2"),
    ],
)
def test_a_redis_is_named_by_host_and_number_only(url: str, text: str) -> None:
    client = connect(Settings(redis_url=SecretStr(url)))
    client.close()
    assert describe(client) == text
