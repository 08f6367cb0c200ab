"""The Python API: one function per command. The functions need no terminal and print nothing.

The first argument is a `Docora`. Long-running functions are generators of progress events; close
the generator to stop early. `docora-ops help python` has an example.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from docora_ops.operations import ChangeOptions as ChangeOptions

if TYPE_CHECKING:
    from docora_ops.actions.app_page import show_app as show_app
    from docora_ops.actions.app_url import set_url as set_url
    from docora_ops.actions.audit_history import history as history
    from docora_ops.actions.bulk import BulkStep as BulkStep
    from docora_ops.actions.bulk_operations import cancel as cancel
    from docora_ops.actions.bulk_operations import follow as follow
    from docora_ops.actions.bulk_operations import operation as operation
    from docora_ops.actions.bulk_operations import operations as operations
    from docora_ops.actions.bulk_operations import running_operation as running_operation
    from docora_ops.actions.deliveries import DeliveryChoice as DeliveryChoice
    from docora_ops.actions.deliveries import delivered_files as delivered_files
    from docora_ops.actions.deliveries import read_deliveries as read_deliveries
    from docora_ops.actions.docora import Docora as Docora
    from docora_ops.actions.doctor import diagnose as diagnose
    from docora_ops.actions.drift import Suspects as Suspects
    from docora_ops.actions.holds import held_apps as held_apps
    from docora_ops.actions.holds import hold as hold
    from docora_ops.actions.holds import release as release
    from docora_ops.actions.link_lists import apps as apps
    from docora_ops.actions.link_lists import link_groups as link_groups
    from docora_ops.actions.link_lists import links as links
    from docora_ops.actions.link_lists import queue as queue
    from docora_ops.actions.link_lists import show as show
    from docora_ops.actions.lookup import LinkChoice as LinkChoice
    from docora_ops.actions.many_links import repeat_schedule as repeat_schedule
    from docora_ops.actions.many_links import resync_all as resync_all
    from docora_ops.actions.many_links import retry_all_failed as retry_all_failed
    from docora_ops.actions.many_links import schedule as schedule
    from docora_ops.actions.one_link import link_to_resync as link_to_resync
    from docora_ops.actions.one_link import resync as resync
    from docora_ops.actions.one_link import retry as retry
    from docora_ops.actions.pauses import pause as pause
    from docora_ops.actions.pauses import resume as resume
    from docora_ops.actions.pauses import rq_workers as rq_workers
    from docora_ops.actions.repairs import repair as repair
    from docora_ops.actions.report import read_report as read_report
    from docora_ops.actions.status import read_status as read_status
    from docora_ops.actions.trend import read_trend as read_trend
    from docora_ops.actions.verification import Compared as Compared
    from docora_ops.actions.verification import verify as verify
    from docora_ops.actions.waiting import LinkStep as LinkStep
    from docora_ops.actions.waiting import OperationStep as OperationStep
    from docora_ops.actions.waiting import wait as wait
    from docora_ops.actions.waiting import wait_for_change as wait_for_change
    from docora_ops.actions.waiting import wait_for_operation as wait_for_operation

_MODULES = {
    "app_page": ("show_app",),
    "app_url": ("set_url",),
    "audit_history": ("history",),
    "bulk_operations": ("cancel", "follow", "operation", "operations", "running_operation"),
    "bulk": ("BulkStep",),
    "deliveries": ("DeliveryChoice", "delivered_files", "read_deliveries"),
    "doctor": ("diagnose",),
    "docora": ("Docora",),
    "drift": ("Suspects",),
    "repairs": ("repair",),
    "waiting": ("LinkStep", "OperationStep", "wait", "wait_for_change", "wait_for_operation"),
    "lookup": ("LinkChoice",),
    "many_links": ("repeat_schedule", "resync_all", "retry_all_failed", "schedule"),
    "one_link": ("link_to_resync", "resync", "retry"),
    "holds": ("held_apps", "hold", "release"),
    "pauses": ("pause", "resume", "rq_workers"),
    "link_lists": ("apps", "link_groups", "links", "queue", "show"),
    "report": ("read_report",),
    "status": ("read_status",),
    "trend": ("read_trend",),
    "verification": ("Compared", "verify"),
}


def __getattr__(name: str) -> object:
    """Imports a function on first use, because most commands need only one of the drivers."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
