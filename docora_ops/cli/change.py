"""The words of questions and audit entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from docora_ops.actions import Docora

_LONGEST_REASON = 500


def check_reason(reason: str | None) -> str | None:
    """Returns the reason. Raises UsageError if it is too long."""
    if reason is not None and len(reason) > _LONGEST_REASON:
        raise UsageError(
            f"--reason has {len(reason)} characters", hint=f"{_LONGEST_REASON} are kept at most"
        )
    return reason


def reset_in_words(docora: Docora, links: str, jobs: str) -> str:
    """Returns what happens to links and their jobs, for a question."""
    if docora.queue.is_docoras:
        return f"reset {links}, so that Docora's scheduler queues {jobs}"
    return f"reset {links} and queue {jobs}"


def sent_again(*, update: bool) -> str:
    """Returns how files are sent again, and what is done to their records, for a question."""
    if update:
        return "again as updates, and delete there what is gone from the repository (mark"
    return "again (delete"


def in_words(*, front: bool, reset_circuit: bool) -> str:
    """Returns what the two options add to a question about jobs."""
    where = " at the head of the queue" if front else ""
    return where + (", and close open circuits" if reset_circuit else "")
