"""The Python API: one function per command, without a terminal, a printed line or a callback.

The first argument is a `Docora`. What takes long is a generator of events, which each tell how far
it is; to stop it early, close it. `docora-ops help python` has an example.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docora_ops.actions.docora import Docora, Notice
    from docora_ops.actions.following import LinkStep, OperationStep, wait, wait_for_operation
    from docora_ops.actions.journal import cancel, follow, history, operations, progress
    from docora_ops.actions.lookup import LinkChoice
    from docora_ops.actions.reading import apps, link_groups, links, queue, show
    from docora_ops.actions.workers import pause, resume, rq_workers

__all__ = [
    "Docora",
    "LinkChoice",
    "LinkStep",
    "Notice",
    "OperationStep",
    "apps",
    "cancel",
    "follow",
    "history",
    "link_groups",
    "links",
    "operations",
    "pause",
    "progress",
    "queue",
    "resume",
    "rq_workers",
    "show",
    "wait",
    "wait_for_operation",
]
_MODULES = {
    "docora": ("Docora", "Notice"),
    "following": ("LinkStep", "OperationStep", "wait", "wait_for_operation"),
    "journal": ("cancel", "follow", "history", "operations", "progress"),
    "lookup": ("LinkChoice",),
    "reading": ("apps", "link_groups", "links", "queue", "show"),
    "workers": ("pause", "resume", "rq_workers"),
}


def __getattr__(name: str) -> object:
    """Imports a function when it is first used: most commands need only one of the drivers."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
