"""No row waits until a command has connected to Redis and loaded its script."""

import pytest

from tests.support.docora import Docora, finish
from tests.support.proxy import Fault, Proxy

IN_TRANSACTION = "state LIKE 'idle in transaction%'"


def test_the_script_is_loaded_before_the_row_is_locked(docora: Docora) -> None:
    link = docora.add_link()
    docora.redis.script_flush()
    with Proxy.before_redis(docora.redis_url) as proxy:
        load = proxy.plan(b"LOAD\r\n", Fault.HOLD_REQUEST)
        with docora.start("retry", *link.ids, env={"REDIS_URL": proxy.url}) as process:
            load.wait()
            assert docora.sessions(IN_TRANSACTION) == 0
            load.release()
            assert finish(process).code == 0
        assert load.requests == 1


@pytest.mark.parametrize("command", ["retry-all-failed --yes", "repair --yes"])
def test_a_bulk_run_connects_before_rows_are_locked(docora: Docora, command: str) -> None:
    docora.add_links(2, status="failed" if "retry" in command else "pending_snapshot")
    docora.age_links()
    with Proxy.before_redis(docora.redis_url) as proxy:
        name = proxy.plan(b"SETNAME\r\n", Fault.HOLD_REQUEST, number=2)
        environment = {"REDIS_URL": proxy.url, "DOCORA_OPS_DRIFT_GRACE": "0"}
        with docora.start(*command.split(), env=environment) as process:
            name.wait()
            assert docora.sessions(IN_TRANSACTION) == 0
            name.release()
            assert finish(process).code == 0
    assert len(docora.waiting()) == 2
