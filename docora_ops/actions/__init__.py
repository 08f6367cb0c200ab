"""The Python API: one function per command, without a terminal, a printed line or a callback.

The first argument is a `Docora`. What takes long is a generator of events, which each tell how far
it is; to stop it early, close it. `docora-ops help python` has an example.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from docora_ops.bulk import ChangeOptions

if TYPE_CHECKING:
    from docora_ops.actions.bulk_run import BulkStep
    from docora_ops.actions.docora import Docora, Notice
    from docora_ops.actions.find_drift import Suspects
    from docora_ops.actions.fix_drift import repair
    from docora_ops.actions.following import (
        LinkStep,
        OperationStep,
        wait,
        wait_for_change,
        wait_for_operation,
    )
    from docora_ops.actions.journal import (
        cancel,
        follow,
        history,
        operations,
        progress,
    )
    from docora_ops.actions.lookup import LinkChoice
    from docora_ops.actions.many_links import resync_all, retry_all_failed, schedule
    from docora_ops.actions.one_link import link_to_resync, resync, retry
    from docora_ops.actions.reading import apps, link_groups, links, queue, show
    from docora_ops.actions.workers import pause, resume, rq_workers

__all__ = [
    "BulkStep",
    "ChangeOptions",
    "Docora",
    "LinkChoice",
    "LinkStep",
    "Notice",
    "OperationStep",
    "Suspects",
    "apps",
    "cancel",
    "follow",
    "history",
    "link_groups",
    "link_to_resync",
    "links",
    "operations",
    "pause",
    "progress",
    "queue",
    "repair",
    "resume",
    "resync",
    "resync_all",
    "retry",
    "retry_all_failed",
    "rq_workers",
    "schedule",
    "show",
    "wait",
    "wait_for_change",
    "wait_for_operation",
]
_MODULES = {
    "bulk_run": ("BulkStep",),
    "docora": ("Docora", "Notice"),
    "find_drift": ("Suspects",),
    "fix_drift": ("repair",),
    "following": ("LinkStep", "OperationStep", "wait", "wait_for_change", "wait_for_operation"),
    "journal": ("cancel", "follow", "history", "operations", "progress"),
    "lookup": ("LinkChoice",),
    "many_links": ("resync_all", "retry_all_failed", "schedule"),
    "one_link": ("link_to_resync", "resync", "retry"),
    "reading": ("apps", "link_groups", "links", "queue", "show"),
    "workers": ("pause", "resume", "rq_workers"),
}


def __getattr__(name: str) -> object:
    """Imports a function when it is first used: most commands need only one of the drivers."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
