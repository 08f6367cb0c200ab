"""RQ's registries of jobs, but for those that run."""

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
"""By the names that they have in keys."""


def registry_key(registry: type[BaseRegistry], queue: str) -> str:
    """The key of a queue's registry; with an empty name, what all such keys begin with."""
    return registry.key_template.format(queue)
