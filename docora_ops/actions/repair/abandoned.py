"""Links that are marked as being scanned, yet nobody scans them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from docora_ops.actions.link_change import SECOND_LOOK_DELAY
from docora_ops.database import Database, Rollback
from docora_ops.database.link_rows import held_job_ids, lock_link, shared_job_ids
from docora_ops.database.snapshots import Ending, count_failure, scanning_links
from docora_ops.errors import LinkError
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, LinkStatus
from docora_ops.queue import LinkQueue, PushRequest
from docora_ops.queue.link_queue import is_valid_job_id
from docora_ops.queue.waiting_list import ExpiredExecutions

_AT_ONCE = 500
_FIRST = "00000000-0000-0000-0000-000000000000"
_ERROR = "the snapshot was cut off: its worker was killed"


@dataclass(frozen=True)
class Recovered:
    """A link that was left behind, and what it is now."""

    ref: LinkRef
    ending: Ending


def recover_abandoned(
    database: Database,
    queue: LinkQueue,
    max_attempts: int,
    keep_alive: Callable[[], object] = lambda: None,
) -> list[Recovered]:
    """Count a failure for each link in `scanning` without a live job, and queue it once more.

    From `max_attempts` failures on it is `failed` instead. Looks twice, a moment apart, before it
    touches a link; links that share their job id with another are left alone. `keep_alive` is
    called before each, which may take as long as a lock is waited for. Raises PostgresError,
    RedisError; the links so far are done then.
    """
    suspects = _suspects(database, queue)
    if not suspects:
        return []
    time.sleep(SECOND_LOOK_DELAY)
    expired = queue.read_expired()
    recovered = []
    for ref, doubtful_since in suspects:
        keep_alive()
        # A link that somebody else has locked is left to the next look.
        with suppress(LinkError):
            ending = _recover(database, queue, expired, ref, doubtful_since, max_attempts)
            if ending is not None:
                recovered.append(Recovered(ref, ending))
    return recovered


def _suspects(database: Database, queue: LinkQueue) -> list[tuple[LinkRef, str]]:
    """Links without a live job and, where a job is doubtful, since when it is queued."""
    suspects = []
    last = _FIRST
    while refs := scanning_links(database, last, _AT_ONCE):
        last = refs[-1].id
        shared = shared_job_ids(database, refs)
        refs = [ref for ref in refs if is_valid_job_id(ref.job_id) and ref.job_id not in shared]
        job_ids = [ref.job_id for ref in refs]
        held = held_job_ids(database, job_ids)
        for ref, answer in zip(refs, queue.look(job_ids) if refs else (), strict=True):
            if ref.job_id not in held and answer.state in {JobState.NONE, JobState.DOUBTFUL}:
                suspects.append((ref, answer.detail))
    return suspects


def _recover(
    database: Database,
    queue: LinkQueue,
    expired: ExpiredExecutions,
    ref: LinkRef,
    doubtful_since: str,
    max_attempts: int,
) -> Ending | None:
    with database.transaction():
        link = lock_link(database, ref.app_id, ref.repository_id)
        if link is None or link.status != LinkStatus.SCANNING:
            return None
        if held_job_ids(database, [ref.job_id]):
            return None
        [answer] = queue.look([ref.job_id], rows_locked=True)
        is_dead = answer.state is JobState.NONE or (
            answer.state is JobState.DOUBTFUL and answer.detail == doubtful_since
        )
        if not is_dead:
            return None
        ending = count_failure(database, link, _ERROR, tries_left=1, max_attempts=max_attempts)
        if not ending.is_final:
            request = PushRequest(ref.job_id, link.payload, is_rescan=True, seen=doubtful_since)
            [answer] = queue.push([request], expired=expired)
            if answer.outcome is None:
                raise Rollback
        return ending
    return None
