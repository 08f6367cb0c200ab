"""A Redis that is gone, refuses, hangs, or loses a reply: a sentence, a code, nothing half done."""

import re
import socket
from collections.abc import Callable

import pytest

from tests.errors.checks import ALL, ENCODED, HURRIED, arguments, refuses, shows_no_secret
from tests.support.docora import Docora
from tests.support.own_servers import OwnRedis, refusing_writes
from tests.support.proxy import PUSH, Fault, Proxy, refused_port
from tests.support.rows import TestLink


def test_a_redis_that_is_not_there_changes_nothing(docora: Docora, link: TestLink) -> None:
    before = docora.dump()
    url = f"redis://someone:{ENCODED}@127.0.0.1:{refused_port()}/3"
    for command in ("retry", "retry-all-failed", "resync --all", "schedule", "operations"):
        result = docora.run(*arguments(command, link), env={"REDIS_URL": url})
        refuses(result, "redis", "Redis at 127.0.0.1:", "/3 can't be reached: connection refused")
    assert docora.dump() == before


@refusing_writes
def test_a_redis_that_refuses_writes_changes_nothing(
    docora: Docora, own: OwnRedis, link: TestLink, spoil: Callable[[OwnRedis], None], sentence: str
) -> None:
    before = docora.dump()
    spoil(own)
    for command in ALL:
        refuses(docora.run(*arguments(command, link)), "redis", sentence)
    assert docora.dump() == before


def test_a_redis_that_hangs_at_the_push_is_given_up(docora: Docora, link: TestLink) -> None:
    before = docora.dump()
    with Proxy.before_redis(docora.redis_url) as proxy:
        proxy.plan(PUSH, Fault.HOLD_REQUEST)
        result = docora.run(*arguments("retry", link), env={"REDIS_URL": proxy.url, **HURRIED})
    document = refuses(result, "redis", "did not answer in time")
    assert "it has 5 s for each answer" in document["hint"]
    assert docora.dump() == before


@pytest.mark.slow
def test_a_screen_waits_once_and_briefly_for_a_silent_redis(docora: Docora, link: TestLink) -> None:
    for command in (["show", link.app_id], ["links", "--overdue"]):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
            env = {"REDIS_URL": url, "DOCORA_OPS_STATEMENT_TIMEOUT": "3600"}
            result = docora.run(*command, env=env)
            assert "did not answer in time" in result.stderr, (command, result)
            silent.accept()[0].close()
            silent.setblocking(False)
            with pytest.raises(BlockingIOError):
                silent.accept()


def test_a_wrong_redis_password_is_not_shown(docora: Docora, own: OwnRedis, link: TestLink) -> None:
    before = docora.dump()
    own.client.config_set("requirepass", "the right one")
    for login in ("", f"nobody:{ENCODED}@"):
        url = own.access.owner.replace("redis://", f"redis://{login}")
        result = docora.run(*arguments("retry", link), env={"REDIS_URL": url})
        refuses(result, "redis", "refuses our user or password")
    assert docora.dump() == before


def test_why_a_server_can_not_be_reached_is_told(docora: Docora, link: TestLink) -> None:
    before = docora.dump()
    name = "docora.invalid"
    unknown = rf"{name}:6379/0 can't be reached: .*name"
    login = f"someone:{ENCODED}"
    for variable, url, sentence in (
        ("REDIS_URL", f"redis://{login}@{name}", unknown),
        ("REDIS_URL", f"unix://{login}@/nowhere/none", "can't be reached: no such file"),
        ("REDIS_URL", f"redis://{login}@{'x' * 70}", "REDIS_URL is not a URL"),
        ("DATABASE_URL", f"postgres://{login}@{name}/d", f"failed to resolve host '{name}'"),
        ("DATABASE_URL", f"postgres://{login}@/d?host=/nowhere", "reached: no such file"),
        ("DATABASE_URL", f"postgres://{login}@{'x' * 70}/d", "label too long"),
    ):
        result = docora.run("failed", "--json", env={variable: url})
        shows_no_secret(result)
        assert result.code == (2 if "not a URL" in sentence else 5), result
        assert re.search(sentence, result.json["error"]), result
        assert result.json["hint"]
    assert docora.dump() == before
