"""What is asked for, and what has to hold after a fault."""

from collections.abc import Mapping
from typing import Any

from tests.support.docora import Docora, Result
from tests.support.fork_server import ForkedProcess
from tests.support.proxy import COMMIT, PUSH, Fault, Plan, Proxy
from tests.support.rows import TestLink

HURRIED = {
    "DOCORA_OPS_CONNECT_TIMEOUT": "1",
    "DOCORA_OPS_STATEMENT_TIMEOUT": "1",
    "DOCORA_OPS_LOCK_TIMEOUT": "1",
}
SECRET = "5ecr3t@passw0rd/t0ken?#%"
ENCODED = "5ecr3t%40passw0rd%2Ft0ken%3F%23%25"
# Of user and secret: a URL whose password is not encoded falls apart in odd places.
PIECES = ("5ecr3t", "passw0rd", "t0ken", "someone")
ALL = ["retry", "resync", "retry-all-failed", "resync --all", "schedule"]


def arguments(command: str, link: TestLink) -> list[str]:
    match command:
        case "retry-all-failed" | "schedule":
            return [command, "--json"]
        case "resync --all":
            return ["resync", link.app_id, "--all", "--yes", "--json"]
        case "operations" | "cancel":
            return [command, "bulk_0123456789abcdef", "--json"]
    return [command, *link.ids, "--json"]


def start_change(
    docora: Docora,
    command: str,
    link: TestLink,
    proxies: tuple[Proxy, Proxy],
    marker: bytes,
    fault: Fault,
    env: Mapping[str, str],
) -> tuple[ForkedProcess, Plan]:
    """Starts a command, and waits until its push, or its commit after that, meets a fault."""
    redis, postgres = proxies
    push = redis.plan(PUSH, fault if marker is PUSH else Fault.HOLD_REQUEST)
    urls = {"REDIS_URL": redis.url, "DATABASE_URL": postgres.url}
    process = docora.start(*arguments(command, link), env={**env, **urls})
    push.wait()
    if marker is PUSH:
        return process, push
    commit = postgres.plan(COMMIT, fault)
    push.release()
    commit.wait()
    return process, commit


def refuses(result: Result, code: str, *sentences: str) -> Any:
    """The command has failed as it should; returns its JSON document."""
    assert result.code == 5, result
    shows_no_secret(result)
    document = result.json
    assert document["code"] == code, result
    assert f"Error: {document['error']}\n" in result.stderr
    assert document["hint"]
    for sentence in sentences:
        assert sentence in document["error"], document
    return document


def shows_no_secret(result: Result) -> None:
    shown = result.stdout + result.stderr
    assert not [piece for piece in (*PIECES, "Traceback", 'File "') if piece in shown], shown
