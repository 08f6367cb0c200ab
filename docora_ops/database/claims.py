"""Claims: locking the rows of links and changing the links that still qualify."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from docora_ops.database.link_rows import (
    DUE,
    LOCK_KEY,
    LOCKED_KEYS,
    MATCHES,
    PAYLOAD,
    filter_parameters,
)
from docora_ops.database.postgres import Database
from docora_ops.links import LinkFilter, LinkRef, Outcome, Payload

_RESET = """
UPDATE docora.app_repositories
SET status = 'pending_snapshot', retry_count = 0, last_error = NULL
WHERE id = ANY (ARRAY(SELECT id::uuid FROM judged WHERE refusal IS NULL))
RETURNING id::text, status
"""

# An interrupted scan counts as a failure. Otherwise, a repository that kills every worker would be
# scanned forever.
_COUNT_CUT_OFF_SCAN = """
UPDATE docora.app_repositories
SET retry_count = retry_count + 1, last_error = %(error)s,
    status = CASE WHEN retry_count + 1 >= %(max_attempts)s THEN 'failed' ELSE 'pending_snapshot' END
WHERE id = ANY (ARRAY(SELECT id::uuid FROM judged WHERE refusal IS NULL AND status = 'scanning'))
RETURNING id::text, status
"""

_NO_CHANGE = "SELECT id, status FROM judged WHERE false"


@dataclass(frozen=True)
class Claiming:
    """Which of the locked links to claim, and how to change their rows.

    qualifies: an SQL condition on a link `l` and its repository `r`.
    parameters: the parameters of `qualifies` and `change`.
    change: an SQL statement that changes the rows to claim: those of `judged` whose `refusal` is
        null. It returns the id and the new status of each changed link.
    """

    qualifies: str
    parameters: Mapping[str, object]
    change: str = _NO_CHANGE

    @classmethod
    def of_matching(cls, which: LinkFilter, *, resets: bool = True) -> Self:
        """Returns how to claim links that still match the filter and, with `resets`, reset them."""
        return cls(MATCHES, filter_parameters(which), _RESET if resets else _NO_CHANGE)

    @classmethod
    def of_due(cls, rescan_interval_ms: int) -> Self:
        """Returns how to claim links that are still due, without changing their rows."""
        return cls(DUE, {"rescan_interval_ms": rescan_interval_ms})

    @classmethod
    def of_unfinished(cls, *, error: str, max_attempts: int) -> Self:
        """Returns how to claim links that are still pending or scanning.

        The claim counts a failure with `error` for each scanning link. The link becomes pending or,
        after `max_attempts` failures, `failed`.
        """
        unfinished = "l.status IN ('pending_snapshot', 'scanning')"
        parameters = {"error": error, "max_attempts": max_attempts}
        return cls(unfinished, parameters, _COUNT_CUT_OFF_SCAN)


LOCK_LINKS = """
SELECT id::text FROM docora.app_repositories WHERE id = ANY (%(ids)s::uuid[]) FOR UPDATE
"""

# With the limits, even outdated statistics can't make Postgres scan all links once for each app or
# repository.
JUDGE_AND_CHANGE_LINKS = f"""
WITH locked AS MATERIALIZED ({LOCKED_KEYS}), judged AS MATERIALIZED (
    SELECT {PAYLOAD}, l.status, CASE
        WHEN ({{qualifies}}) IS NOT TRUE THEN 'skipped'
        WHEN {LOCK_KEY.format(job_id="l.app_id || '-' || l.repository_id")}
            IN (SELECT key FROM locked) THEN 'already_running' END AS refusal
    FROM docora.app_repositories l
    CROSS JOIN LATERAL (
        SELECT app_name, base_url, client_auth_key_encrypted FROM docora.apps
        WHERE app_id = l.app_id LIMIT 1
    ) a
    CROSS JOIN LATERAL (
        SELECT github_url, owner, name, circuit_open_until FROM docora.repositories
        WHERE repository_id = l.repository_id LIMIT 1
    ) r
    WHERE l.id = ANY (%(ids)s::uuid[])
), changed AS ({{change}})
SELECT judged.*, id IN (SELECT id FROM changed WHERE status = 'failed') FROM judged
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A link whose row is locked.

    status: the link's status before the claim.
    refusal: why the link is not claimed: SKIPPED or ALREADY_RUNNING; None if it is claimed.
    has_failed: whether the claim has set the link to `failed`, because its scan was interrupted too
        often. The link then needs no job.
    """

    payload: Payload
    status: str
    refusal: Outcome | None
    has_failed: bool


def claim_links(
    database: Database, refs: Sequence[LinkRef], claiming: Claiming, *, wait: bool = False
) -> dict[LinkRef, Claim]:
    """Locks the rows of links, and changes the links that qualify.

    Returns all locked links, in the order of `refs`. Omits links that are gone or, unless `wait`,
    locked by other sessions. Raises PostgresError, and LinkLockedError if waiting for a lock times
    out.
    """
    # Without `wait`, rows locked by other sessions are skipped: the caller tries them again later.
    lock = LOCK_LINKS if wait else f"{LOCK_LINKS} SKIP LOCKED"
    locked = [id_ for (id_,) in database.rows(lock, {"ids": [ref.id for ref in refs]})]
    if not locked:
        return {}
    # A statement sees the apps and repositories as they were when it began. The links are judged by
    # a second statement, which sees everything that was committed before they were locked.
    sql = JUDGE_AND_CHANGE_LINKS.format(qualifies=claiming.qualifies, change=claiming.change)
    rows = database.rows(sql, {"ids": locked, **claiming.parameters})
    claims = {
        id_: Claim(Payload(*payload), status, refusal and Outcome(refusal), has_failed)
        for id_, *payload, status, refusal, has_failed in rows
    }
    return {ref: claims[ref.id] for ref in refs if ref.id in claims}
