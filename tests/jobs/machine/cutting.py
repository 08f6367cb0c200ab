"""Calls whose connection to a server is cut."""

from collections.abc import Callable
from typing import Any

from pydantic import SecretStr

from docora_ops.errors import ServerError
from docora_ops.settings import Settings
from tests.jobs.machine.predicting import REFUSALS
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy, eventually

Call = Callable[[Actions], Any]
Cut = tuple[bytes, Fault]
"""Which requests, and whether these or their replies are lost."""


def call_while_cut(docora: Docora, settings: Settings, call: Call, cut: Cut, number: int) -> bool:
    """Have the connection cut at the `number`th such request; returns whether it came to that."""
    marker, fault = cut
    if marker is PUSH:
        proxy = Proxy.before_redis(docora.redis_url)
        changes = {"redis_url": SecretStr(proxy.url)}
    else:
        proxy = Proxy.before_postgres(docora.database_url)
        changes = {"database_url": SecretStr(proxy.url)}
    with proxy:
        plan = proxy.plan(marker, fault, number)
        actions = Actions(settings.model_copy(update=changes))
        try:
            call(actions)
        except ServerError:
            assert plan.reached.is_set()
        except REFUSALS:
            assert not plan.reached.is_set()
        else:
            # A bulk operation goes on without the names of links that it could not queue.
            assert marker is COMMIT or not plan.reached.is_set()
        finally:
            actions.close()

    eventually(
        lambda: docora.sessions("xact_start IS NOT NULL") == 0, "the rollback of what was cut"
    )
    return plan.reached.is_set()
