"""No row waits until a command has connected to Redis and loaded its script."""

import pytest

from tests.support.docora import Docora, finish
from tests.support.proxy import Fault, Proxy

IN_TRANSACTION = "state LIKE 'idle in transaction%'"


@pytest.mark.parametrize("command", ["retry", "retry-all-failed --yes", "repair --yes"])
def test_the_script_is_loaded_before_rows_are_locked(docora: Docora, command: str) -> None:
    link = docora.add_link("pending_snapshot" if "repair" in command else "failed")
    docora.age_links()
    docora.redis.script_flush()
    words = [*command.split(), *(link.ids if command == "retry" else ())]
    with Proxy.before_redis(docora.redis_url) as proxy:
        load = proxy.plan(b"LOAD\r\n", Fault.HOLD_REQUEST)
        environment = {"REDIS_URL": proxy.url, "DOCORA_OPS_DRIFT_GRACE": "0"}
        with docora.start(*words, env=environment) as process:
            load.wait()
            assert docora.sessions(IN_TRANSACTION) == 0
            load.release()
            assert finish(process).code == 0
    assert docora.waiting() == [link.job_id]
