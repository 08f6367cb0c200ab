"""Rows of links: choosing, reading, locking and changing them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from sys import intern

from docora_ops.database.postgres import Database
from docora_ops.links import Link, LinkFilter, LinkIds, LinkRef, LinkStatus, Payload, PublicPayload
from docora_ops.text import mask

# Postgres plans each statement with its parameters: a condition on nothing costs nothing, nor does
# the join unless something of the repository is asked for.
LINKS = "docora.app_repositories l LEFT JOIN docora.repositories r USING (repository_id)"

MATCHES = """(
    (%(statuses)s::text[] IS NULL OR l.status = ANY (%(statuses)s::text[])
        OR %(or_held_back)s::boolean
            AND l.status = 'pending_snapshot' AND r.circuit_open_until > now())
    AND (%(app_ids)s::text[] IS NULL OR l.app_id = ANY (%(app_ids)s::text[]))
    AND (%(exclude_app_ids)s::text[] IS NULL OR l.app_id <> ALL (%(exclude_app_ids)s::text[]))
    AND (%(repository_ids)s::text[] IS NULL AND %(repository_names)s::text[] IS NULL
         OR l.repository_id = ANY (%(repository_ids)s::text[])
         OR r.owner || '/' || r.name ILIKE ANY (%(repository_names)s::text[]))
    AND (%(errors)s::text[] IS NULL AND NOT %(no_error)s::boolean
         OR l.last_error ILIKE ANY (%(errors)s::text[])
         OR %(no_error)s::boolean AND coalesce(l.last_error, '') = '')
    AND (%(exclude_errors)s::text[] IS NULL
         OR (l.last_error ILIKE ANY (%(exclude_errors)s::text[])) IS NOT TRUE)
    AND (%(open_circuit)s::boolean IS NULL
         OR coalesce(r.circuit_open_until > now(), false) = %(open_circuit)s::boolean)
)"""

_PUBLIC = """
    l.id::text, l.app_id, a.app_name, l.repository_id, r.github_url, r.owner, r.name, a.base_url
"""
_PAYLOAD = f"{_PUBLIC}, l.github_token_encrypted, a.client_auth_key_encrypted"

_OF_LINK = """
FROM docora.app_repositories l JOIN docora.apps a USING (app_id)
JOIN docora.repositories r USING (repository_id)
WHERE l.app_id = %(app_id)s AND l.repository_id = %(repository_id)s
"""

READ_LINK = f"""
SELECT {_PUBLIC}, l.status, l.retry_count, l.last_error, r.circuit_open_until, now()
{_OF_LINK}
"""

READ_PAYLOAD = f"SELECT {_PAYLOAD} {_OF_LINK}"

# A bulk operation skips what we hold here; a worker waits for it.
LOCK_LINK = """
SELECT 1 FROM docora.app_repositories
WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s FOR UPDATE
"""

RESET_LINKS = """
UPDATE docora.app_repositories SET status = 'pending_snapshot', retry_count = 0, last_error = NULL
WHERE id = ANY (%(ids)s::uuid[])
"""

# A repository that kills each worker must not be scanned for ever: a scan that was cut off counts.
COUNT_CUT_OFF_SCANS = """
UPDATE docora.app_repositories
SET retry_count = retry_count + 1, last_error = %(error)s,
    status = CASE WHEN retry_count + 1 >= %(max_attempts)s THEN 'failed' ELSE 'pending_snapshot' END
WHERE id = ANY (%(ids)s::uuid[])
RETURNING id::text, status
"""

# Who runs a snapshot holds the session advisory lock of its job id, a 64-bit key that pg_locks
# shows in two halves. We only look: were we to hold the lock until our commit, a worker fast
# enough to take up the new job before that would find it taken and drop the job.
_HELD_KEYS = """
    SELECT (classid::bigint << 32) | objid::bigint AS key
    FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

HELD_JOB_IDS = f"""
WITH held AS ({_HELD_KEYS})
SELECT job_id FROM unnest(%(job_ids)s::text[]) AS job_id
WHERE hashtextextended(job_id, 0) IN (SELECT key FROM held)
"""

NOT_HELD_BACK = """(
    NOT %(skip_open_circuits)s OR r.circuit_open_until IS NULL OR r.circuit_open_until <= now()
)"""

# Docora's own scheduler queues the same links. An opened circuit leaves its time in the row until
# git succeeds or somebody resets it, so that failed links wait for that even after the time.
DUE = """(
    (l.status = 'pending_snapshot'
     OR l.status = 'synced'
        AND (l.last_scanned_at IS NULL OR l.last_scanned_at
             < now() - %(rescan_interval_ms)s::bigint * interval '1 millisecond')
     OR l.status = 'failed' AND r.circuit_open_until IS NULL)
    AND (r.circuit_open_until IS NULL OR r.circuit_open_until <= now())
)"""

# Rows that somebody else holds are not in the answer: they are tried again, one by one, later.
LOCK_LINKS = """
SELECT id::text FROM docora.app_repositories WHERE id = ANY (%(ids)s::uuid[]) FOR UPDATE SKIP LOCKED
"""

# The limits keep Postgres, whatever it believes of the tables, from going through all the links
# once for each app or repository.
_JUDGE_LINKS = f"""
SELECT {_PAYLOAD}, l.status, {{qualifies}}
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
"""

JUDGE_LINKS_OF_APP = _JUDGE_LINKS.format(qualifies=f"l.app_id = %(app_id)s AND {NOT_HELD_BACK}")
JUDGE_FAILED_LINKS = _JUDGE_LINKS.format(qualifies=f"{MATCHES} AND {NOT_HELD_BACK}")
JUDGE_UNFINISHED_LINKS = _JUDGE_LINKS.format(
    qualifies="l.status IN ('pending_snapshot', 'scanning')"
)
JUDGE_DUE_LINKS = _JUDGE_LINKS.format(qualifies=DUE)

DELETE_DELIVERIES = """
DELETE FROM docora.app_delivered_files d
USING unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS link(app_id, repository_id)
WHERE d.app_id = link.app_id AND d.repository_id = link.repository_id
"""

# No content has this SHA-256: the next snapshot sends each of these files as an update, and a
# deletion for each that is gone. Docora's worker takes an empty value for none, and sends no
# `previous_sha`; one in the form of a SHA-256 also passes an app that checks the form.
MARK_DELIVERIES = """
UPDATE docora.app_delivered_files d SET file_sha = repeat('0', 64)
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS link(app_id, repository_id)
WHERE d.app_id = link.app_id AND d.repository_id = link.repository_id
"""

COUNT_DELIVERIES = """
SELECT count(*) FROM docora.app_delivered_files d
JOIN unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS link(app_id, repository_id)
    ON d.app_id = link.app_id AND d.repository_id = link.repository_id
"""

NAMES_OF_LINKS = """
SELECT a.app_name, r.owner || '/' || r.name
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[])
    WITH ORDINALITY AS link(app_id, repository_id, number)
LEFT JOIN docora.apps a USING (app_id) LEFT JOIN docora.repositories r USING (repository_id)
ORDER BY link.number
"""


class ClaimState(StrEnum):
    """The result of a claim of one link."""

    CLAIMED = "claimed"
    CHANGED = "changed"  # the link does not qualify any more
    LOCKED = "locked"  # a worker holds the link's lock
    EXHAUSTED = "exhausted"
    """The link was stuck for the last time that is allowed, and is failed now."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A link whose row is locked. `status`: before the claim."""

    state: ClaimState
    payload: Payload
    status: str


def filter_parameters(which: LinkFilter) -> dict[str, object]:
    """Returns the parameters of the condition."""
    return {
        "statuses": [status.value for status in which.statuses] or None,
        "app_ids": list(which.app_ids) or None,
        "exclude_app_ids": list(which.exclude_app_ids) or None,
        "repository_ids": list(which.repository_ids) or None,
        "repository_names": [like(text) for text in which.repository_names] or None,
        "errors": [_part(text) for text in which.errors] or None,
        "exclude_errors": [_part(text) for text in which.exclude_errors] or None,
        "no_error": which.no_error,
        "open_circuit": which.open_circuit,
        "or_held_back": which.or_held_back,
    }


def _part(text: str) -> str:
    """Returns the pattern for LIKE: with `*` the text is all of an error, without it a part."""
    return like(text) if "*" in text else f"%{like(text)}%"


def like(text: str) -> str:
    """Returns the pattern for LIKE that matches this text, where `*` stands for anything."""
    literal = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return literal.replace("*", "%")


def read_link(database: Database, app_id: str, repository_id: str) -> Link | None:
    """Returns the link without locking it, None if there is none."""
    row = database.row(READ_LINK, {"app_id": app_id, "repository_id": repository_id})
    if row is None:
        return None
    status, retry_count, last_error, circuit_open_until, read_at = row[8:]
    return Link(
        LinkRef(row[0], row[1], row[3]),
        PublicPayload(*row[1:8]),
        status,
        retry_count,
        last_error and mask(last_error),
        circuit_open_until,
        read_at,
    )


def lock_link(database: Database, app_id: str, repository_id: str) -> Link | None:
    """Locks the link until the transaction ends and returns it. Raises LinkLockedError."""
    if database.row(LOCK_LINK, {"app_id": app_id, "repository_id": repository_id}) is None:
        return None
    # A statement that waits for the row reads the rest, its app and repository, as before the wait.
    return read_link(database, app_id, repository_id)


def read_payload(database: Database, ref: LinkRef) -> Payload:
    """Returns what the job of a locked link needs, all of one moment, secrets included."""
    values = {"app_id": ref.app_id, "repository_id": ref.repository_id}
    [row] = database.rows(READ_PAYLOAD, values)
    return Payload(*row[1:])


def clear_deliveries(database: Database, links: Sequence[LinkIds], *, update: bool) -> int:
    """Deletes the delivery records of the links or, with `update`, marks them as outdated.

    Returns their number.
    """
    return database.execute(MARK_DELIVERIES if update else DELETE_DELIVERIES, _pairs(links))


def count_deliveries(database: Database, links: Sequence[LinkIds]) -> int:
    """Counts the delivery records of the links."""
    [(count,)] = database.rows(COUNT_DELIVERIES, _pairs(links))
    return int(count)


def _pairs(links: Sequence[LinkIds]) -> dict[str, list[str]]:
    return {
        "app_ids": [link.app_id for link in links],
        "repository_ids": [link.repository_id for link in links],
    }


def held_job_ids(database: Database, job_ids: Sequence[str]) -> set[str]:
    """Returns the job ids whose link a worker has locked."""
    return {job_id for (job_id,) in database.rows(HELD_JOB_IDS, {"job_ids": list(job_ids)})}


def claim_links_of_app(
    database: Database, ids: Sequence[str], app_id: str, *, skip_open_circuits: bool
) -> list[Claim]:
    """Locks and resets the links of the app, whatever their status.

    `ids`: row ids. Links that are gone or locked by others are left out, as in all claims.
    """
    parameters = {"app_id": app_id, "skip_open_circuits": skip_open_circuits}
    return _claim_and_reset(database, ids, JUDGE_LINKS_OF_APP, parameters)


def claim_failed_links(
    database: Database, ids: Sequence[str], which: LinkFilter, *, skip_open_circuits: bool
) -> list[Claim]:
    """Locks and resets the links that still match the filter. It must choose failed links only."""
    parameters = filter_parameters(which) | {"skip_open_circuits": skip_open_circuits}
    return _claim_and_reset(database, ids, JUDGE_FAILED_LINKS, parameters)


def claim_unfinished_links(
    database: Database, ids: Sequence[str], *, error: str, max_attempts: int
) -> list[Claim]:
    """Locks the links that still are pending or being scanned.

    Counts a failure with `error` for each that is being scanned: it becomes pending, or `failed`
    from `max_attempts` failures on.
    """
    claims = _claim(database, ids, JUDGE_UNFINISHED_LINKS, {})
    stuck = [id_ for id_ in _claimed(claims) if claims[id_].status == LinkStatus.SCANNING]
    parameters = {"ids": stuck, "error": error, "max_attempts": max_attempts}
    for id_, status in database.rows(COUNT_CUT_OFF_SCANS, parameters) if stuck else ():
        if status == LinkStatus.FAILED:
            claims[id_] = replace(claims[id_], state=ClaimState.EXHAUSTED)
    return list(claims.values())


def claim_due_links(database: Database, ids: Sequence[str], rescan_interval_ms: int) -> list[Claim]:
    """Locks the links that still are due, and changes nothing."""
    parameters = {"rescan_interval_ms": rescan_interval_ms}
    return list(_claim(database, ids, JUDGE_DUE_LINKS, parameters).values())


def _claim_and_reset(
    database: Database, ids: Sequence[str], sql: str, parameters: Mapping[str, object]
) -> list[Claim]:
    claims = _claim(database, ids, sql, parameters)
    if claimed := _claimed(claims):
        database.execute(RESET_LINKS, {"ids": claimed})
    return list(claims.values())


def _claim(
    database: Database, ids: Sequence[str], sql: str, parameters: Mapping[str, object]
) -> dict[str, Claim]:
    """Locks the links and returns their claims by row id."""
    locked = [id_ for (id_,) in database.rows(LOCK_LINKS, {"ids": list(ids)})]
    # In statements of their own, which see what was committed before the last row was locked. One
    # that locks reads that row as it is by then, and the rest as it was when the statement began.
    rows = database.rows(sql, {"ids": locked, **parameters})
    payloads = {row[0]: Payload(*row[1:10]) for row in rows}
    held = held_job_ids(database, [payload.job_id for payload in payloads.values()])
    claims = {}
    for id_, *_, status, qualifies in rows:
        payload = payloads[id_]
        state = ClaimState.LOCKED if payload.job_id in held else ClaimState.CLAIMED
        claims[id_] = Claim(state if qualifies else ClaimState.CHANGED, payload, status)
    return claims


def _claimed(claims: Mapping[str, Claim]) -> list[str]:
    return [id_ for id_, claim in claims.items() if claim.state is ClaimState.CLAIMED]


def names_of(database: Database, links: Sequence[LinkIds]) -> list[tuple[str | None, str | None]]:
    """Returns app name and `owner/name`, where they exist, for each link in order."""
    rows = database.rows(NAMES_OF_LINKS, _pairs(links))
    # One string for all links of an app or a repository: there may be a million.
    return [(app and intern(app), repository and intern(repository)) for app, repository in rows]
