"""The keys of bulk operations, and the fields of their hashes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields

from docora_ops.links import LinkFailure
from docora_ops.operations import KnownOperation, OperationState, Results, StoppedBy
from docora_ops.queue.redis_answers import (
    mapping_of,
    moment_of_timestamp,
    optional_text_of,
    whole_number,
)

EXPIRY = 3_600  # seconds for which an operation is kept after its last batch
OWNER_PATIENCE = 120  # seconds without a renewal after which an operation counts as abandoned
LONGEST_ERROR = 1_000  # characters of an error or a message
PREFIX = "docora:bulk:"
# Docora's dashboard reads the first five. docora-ops adds the others to its own operations.
FIELDS = (
    *("total", "completed", "succeeded", "failed", "cancelled", "taken_over"),
    *("who", "command", "selection", "stopped_by", "cancelled_by", "results", "messages"),
)


def operation_key(operation_id: str) -> str:
    """Returns the key of the operation's hash."""
    return PREFIX + operation_id


def part_key(operation_id: str, part: str) -> str:
    """Returns the key of a part of an operation.

    part: `record`, which is kept for a week; `links`, the row ids of the claimed links; or
        `selection`, the row ids of all links while the operation is at work.
    """
    # With `PREFIX`, the dashboard would take the key for an operation.
    return f"docora-ops:operation:{operation_id}:{part}"


def operation_of(
    operation_id: str,
    values: Sequence[bytes | None],
    time: tuple[int, int],
    *,
    seconds_left: float,
    expiry: int,
) -> KnownOperation:
    """Returns the operation that a hash describes.

    values: the values of `FIELDS`.
    time: the reply of Redis to TIME.
    seconds_left: the remaining TTL of the hash, in seconds.
    expiry: the TTL that each step sets, in seconds.
    """
    now = time[0] + time[1] / 1e6
    numbers = (whole_number(value) or 0 for value in [*values[:4], values[5]])
    total, completed, put_to_work, not_queued, taken_over = numbers
    texts = map(optional_text_of, values[6:])
    who, command, selection, stopped_by, cancelled_by, results, messages = texts
    step = now - expiry + seconds_left if 0 <= seconds_left <= expiry else None
    is_cancelled, state = values[4] == b"true", OperationState.RUNNING
    if completed >= total:
        state = OperationState.DONE
    elif is_cancelled:
        state = OperationState.CANCELLED
    elif step is not None and now - step > OWNER_PATIENCE:
        state = OperationState.OWNER_GONE
    return KnownOperation(
        operation_id=operation_id,
        total=total,
        completed=completed,
        put_to_work=put_to_work,
        not_queued=not_queued,
        cancelled=is_cancelled,
        taken_over=taken_over,
        state=state,
        last_step_at=None if step is None else moment_of_timestamp(step),
        last_step_seconds=None if step is None else int(now - step),
        who=who,
        command=command,
        selection=mapping_of(selection),
        stopped_by=stopped_by_of(stopped_by),
        cancelled_by=cancelled_by,
        results=results_of(results),
        messages=_texts_of(messages),
    )


def failure_of(texts: Sequence[object]) -> LinkFailure:
    """Parses a failure that was stored as a list. Raises TypeError, ValueError."""
    *known, app_name, repository_name = texts
    names = (name and str(name) for name in (app_name, repository_name))
    return LinkFailure(*map(str, known), *names)


def results_of(text: str | None) -> Results | None:
    """Parses the results of an operation's snapshots; returns None if there are none."""
    counts = mapping_of(text)
    numbers = [counts.get(field.name) for field in fields(Results)]
    known = [number for number in numbers if isinstance(number, int)]
    return Results(*known) if len(known) == len(numbers) else None


def stopped_by_of(text: str | None) -> StoppedBy | None:
    """Parses why an operation left links unchanged; returns None for any other text."""
    with suppress(ValueError):
        return StoppedBy(text or "")
    return None


def _texts_of(text: str | None) -> list[str]:
    """Parses a JSON list of texts; returns an empty list for anything else."""
    texts = mapping_of(f'{{"texts": {text}}}').get("texts")
    return texts if isinstance(texts, list) else []
