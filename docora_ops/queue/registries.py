"""RQ's registries, except that of running jobs."""

from __future__ import annotations

from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    ScheduledJobRegistry,
)

REGISTRIES: dict[str, type[BaseRegistry]] = {
    "failed": FailedJobRegistry,
    "finished": FinishedJobRegistry,
    "canceled": CanceledJobRegistry,
    "deferred": DeferredJobRegistry,
    "scheduled": ScheduledJobRegistry,
    "ready": ReadyJobRegistry,
}


def registry_key(registry: type[BaseRegistry], queue: str) -> str:
    """Returns the key of a queue's registry, or the prefix of such keys for an empty name."""
    return registry.key_template.format(queue)
