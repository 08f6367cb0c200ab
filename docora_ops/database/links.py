"""Reading, locking and changing links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from psycopg.rows import TupleRow

from docora_ops.database.connection import Database
from docora_ops.masking import mask
from docora_ops.models import Link, LinkRef, LinkStatus, Payload, possible_ids

_LINK_COLUMNS = """
    l.id::text, l.app_id, a.app_name, l.repository_id, r.github_url, r.owner, r.name, a.base_url,
    l.github_token_encrypted, a.client_auth_key_encrypted
"""

READ_LINK = f"""
SELECT {_LINK_COLUMNS}, l.status, l.retry_count, l.last_error, r.circuit_open_until
FROM app_repositories l JOIN apps a USING (app_id) JOIN repositories r USING (repository_id)
WHERE l.app_id = %(app_id)s AND l.repository_id = %(repository_id)s
"""

# A bulk operation skips what we hold here; a worker waits for it.
LOCK_LINK = READ_LINK + "FOR UPDATE OF l"

_RESET = "SET status = 'pending_snapshot', retry_count = 0, last_error = NULL"

RESET_LINK = f"UPDATE app_repositories {_RESET} WHERE id = %(id)s"

CLOSE_CIRCUIT = """
UPDATE repositories
SET consecutive_failures = 0, circuit_open_until = NULL, updated_at = now()
WHERE repository_id = %(repository_id)s
"""

COUNT_DELIVERIES_OF_APP = """
SELECT count(*) FROM app_delivered_files WHERE app_id = %(app_id)s
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

# As Docora's own scheduler has it: where a circuit has been open, even if that is over, failed
# links wait for a person.
DUE = """(
    (l.status = 'pending_snapshot'
     OR l.status = 'synced'
        AND (l.last_scanned_at IS NULL OR l.last_scanned_at
             < now() - %(rescan_interval_ms)s::bigint * interval '1 millisecond')
     OR l.status = 'failed' AND r.circuit_open_until IS NULL)
    AND (r.circuit_open_until IS NULL OR r.circuit_open_until <= now())
)"""

# Rows that somebody else holds are not in the answer: they are tried again, one by one, later.
# Do not touch links whose snapshot is running, nor those that changed since they were selected.
_CLAIM = f"""
WITH held AS MATERIALIZED ({_HELD_KEYS}),
locked AS MATERIALIZED (
    SELECT l.id, l.app_id, l.repository_id, l.status, {{qualifies}} AS qualifies
    FROM {{links}}
    WHERE l.id = ANY (%(ids)s::uuid[])
    FOR UPDATE OF l SKIP LOCKED
),
judged AS MATERIALIZED (
    SELECT id, status, CASE
        WHEN NOT qualifies THEN 'changed'
        WHEN hashtextextended(app_id || '-' || repository_id, 0) IN (SELECT key FROM held)
            THEN 'running'
        ELSE 'claimed' END AS verdict
    FROM locked
)
{{change}}
SELECT {_LINK_COLUMNS}, j.verdict, j.status
FROM judged j JOIN app_repositories l USING (id)
JOIN apps a ON a.app_id = l.app_id JOIN repositories r ON r.repository_id = l.repository_id
"""

CLAIM_LINKS = _CLAIM.format(
    qualifies="(%(status)s::text IS NULL OR l.status = %(status)s)",
    links="app_repositories l",
    change=f""", reset AS (
    UPDATE app_repositories l {_RESET}
    FROM judged WHERE l.id = judged.id AND verdict = 'claimed'
)""",
)

# A stuck link keeps its retries and its error: they are what it had before.
CLAIM_UNFINISHED_LINKS = _CLAIM.format(
    qualifies="l.status IN ('pending_snapshot', 'scanning')",
    links="app_repositories l",
    change=""", reset AS (
    UPDATE app_repositories l SET status = 'pending_snapshot'
    FROM judged WHERE l.id = judged.id AND verdict = 'claimed' AND judged.status = 'scanning'
)""",
)

# The limit keeps Postgres, whatever it believes of the tables, from going through all the ids once
# for each repository.
CLAIM_DUE_LINKS = _CLAIM.format(
    qualifies=DUE,
    links="""app_repositories l CROSS JOIN LATERAL (
        SELECT circuit_open_until FROM repositories
        WHERE repository_id = l.repository_id LIMIT 1
    ) r""",
    change="",
)

DELETE_DELIVERIES = """
DELETE FROM app_delivered_files d
USING unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS link(app_id, repository_id)
WHERE d.app_id = link.app_id AND d.repository_id = link.repository_id
"""

COUNT_DELIVERIES = """
SELECT count(*) FROM app_delivered_files d
JOIN unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS link(app_id, repository_id)
    ON d.app_id = link.app_id AND d.repository_id = link.repository_id
"""

DESCRIBE_LINKS = """
SELECT l.id::text, a.app_name, r.owner, r.name
FROM app_repositories l JOIN apps a USING (app_id) JOIN repositories r USING (repository_id)
WHERE l.id = ANY (%(ids)s::uuid[])
"""

# The limit keeps Postgres from reading the whole table: it looks up one link after the other.
LINKS_BY_IDS = """
SELECT l.app_id, l.repository_id, l.status
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS ids(app_id, repository_id)
CROSS JOIN LATERAL (
    SELECT app_id, repository_id, status FROM app_repositories
    WHERE app_id = ids.app_id AND repository_id = ids.repository_id LIMIT 1
) l
"""


class Verdict(StrEnum):
    """What a claim found of one link."""

    CLAIMED = "claimed"
    CHANGED = "changed"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Claim:
    """One link that was locked, whether it may be queued, and the status that it had."""

    verdict: Verdict
    payload: Payload
    status: str


@dataclass(frozen=True, slots=True)
class JobLink:
    """The link that a job id stands for, or one of them."""

    job_id: str
    app_id: str
    repository_id: str
    status: str


def read_link(database: Database, app_id: str, repository_id: str) -> Link | None:
    """The link as it stands, without a lock."""
    return _link(database.row(READ_LINK, {"app_id": app_id, "repository_id": repository_id}))


def lock_link(database: Database, app_id: str, repository_id: str) -> Link | None:
    """The link, locked until the transaction ends. Raises LinkLockedError."""
    return _link(database.row(LOCK_LINK, {"app_id": app_id, "repository_id": repository_id}))


def reset_link(database: Database, ref: LinkRef) -> None:
    """Make the link pending, with no retries and no error."""
    database.execute(RESET_LINK, {"id": ref.id})


def close_circuit(database: Database, repository_id: str) -> None:
    """Close the circuit breaker of a repository."""
    database.execute(CLOSE_CIRCUIT, {"repository_id": repository_id})


def delete_deliveries(database: Database, links: Sequence[LinkRef | Payload]) -> int:
    """Forget what the apps have received over these links; returns how many files that was."""
    return database.execute(DELETE_DELIVERIES, _pairs(links))


def count_deliveries(database: Database, links: Sequence[LinkRef | Payload]) -> int:
    """How many files the apps have received over these links."""
    row = database.row(COUNT_DELIVERIES, _pairs(links))
    return int(row[0]) if row else 0


def count_deliveries_of_app(database: Database, app_id: str) -> int:
    """How many files the app has received in all."""
    row = database.row(COUNT_DELIVERIES_OF_APP, {"app_id": app_id})
    return int(row[0]) if row else 0


def _pairs(links: Sequence[LinkRef | Payload]) -> dict[str, list[str]]:
    return {
        "app_ids": [link.app_id for link in links],
        "repository_ids": [link.repository_id for link in links],
    }


def held_job_ids(database: Database, job_ids: Sequence[str]) -> set[str]:
    """Those job ids whose link a worker holds at this moment."""
    return {job_id for (job_id,) in database.rows(HELD_JOB_IDS, {"job_ids": list(job_ids)})}


def claim_links(database: Database, ids: Sequence[str], status: LinkStatus | None) -> list[Claim]:
    """Lock and reset the links among `ids` that still have `status` (any, if None).

    Links that are locked elsewhere or gone are missing from the answer.
    """
    return _claim(database, CLAIM_LINKS, {"ids": list(ids), "status": status})


def claim_unfinished_links(database: Database, ids: Sequence[str]) -> list[Claim]:
    """Lock those among `ids` that are pending or being scanned still, and make them pending.

    Links that are locked elsewhere or gone are missing from the answer.
    """
    return _claim(database, CLAIM_UNFINISHED_LINKS, {"ids": list(ids)})


def claim_due_links(database: Database, ids: Sequence[str], rescan_interval_ms: int) -> list[Claim]:
    """Lock those among `ids`, and change nothing; links that are not due any more are refused.

    Links that are locked elsewhere or gone are missing from the answer.
    """
    parameters = {"ids": list(ids), "rescan_interval_ms": rescan_interval_ms}
    return _claim(database, CLAIM_DUE_LINKS, parameters)


def _claim(database: Database, sql: str, parameters: Mapping[str, object]) -> list[Claim]:
    rows = database.rows(sql, parameters)
    return [Claim(Verdict(row[10]), Payload(*row[1:10]), row[11]) for row in rows]


def describe_links(database: Database, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """App name and `owner/name` by the id of the link."""
    rows = database.rows(DESCRIBE_LINKS, {"ids": list(ids)})
    return {row[0]: (row[1], f"{row[2]}/{row[3]}") for row in rows}


def shared_job_ids(database: Database, refs: Sequence[LinkRef]) -> set[str]:
    """Those job ids that another link's ids form too: `a-b` + `c` and `a` + `b-c`."""
    dashed = {ref.job_id for ref in refs if ref.job_id.count("-") > 1}
    links = Counter(link.job_id for link in links_of_jobs(database, dashed))
    return {job_id for job_id, count in links.items() if count > 1}


def links_of_jobs(database: Database, job_ids: Iterable[str]) -> list[JobLink]:
    """Every link whose ids form one of these job ids, and its status."""
    pairs = {pair for job_id in job_ids for pair in possible_ids(job_id)}
    if not pairs:
        return []
    parameters = {
        "app_ids": [app_id for app_id, _ in pairs],
        "repository_ids": [repository_id for _, repository_id in pairs],
    }
    return [JobLink(f"{row[0]}-{row[1]}", *row) for row in database.rows(LINKS_BY_IDS, parameters)]


def _link(row: TupleRow | None) -> Link | None:
    if row is None:
        return None
    payload = Payload(*row[1:10])
    status, retry_count, last_error, circuit_open_until = row[10:14]
    secrets = (payload.github_token_encrypted, payload.client_auth_key_encrypted)
    return Link(
        LinkRef(row[0], row[1], row[3]),
        payload,
        status,
        retry_count,
        last_error and mask(last_error, secrets),
        circuit_open_until,
    )
