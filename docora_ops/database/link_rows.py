"""Rows of links: choosing, reading, locking and changing them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from sys import intern

from docora_ops.database.postgres import Database
from docora_ops.links import (
    AppCount,
    Link,
    LinkFilter,
    LinkIds,
    LinkRef,
    LinkStatus,
    Outcome,
    Payload,
    PublicPayload,
    ids_of_job,
)
from docora_ops.text import mask

# Postgres plans each statement with its parameters: a condition on nothing costs nothing, nor does
# the join unless something of the repository is asked for.
LINKS = "docora.app_repositories l LEFT JOIN docora.repositories r USING (repository_id)"

# Only if no link at all was scanned since then, pending links and links that were never scanned
# count, too. The first condition is implied by the second, and lets Postgres use an index.
OVERDUE = """(
    (l.last_scanned_at < %(overdue_before)s OR l.last_scanned_at IS NULL)
    AND greatest(coalesce(l.last_scanned_at, l.created_at), r.circuit_open_until)
        < %(overdue_before)s
    AND (l.status = 'synced' AND l.last_scanned_at IS NOT NULL
         OR l.status IN ('synced', 'pending_snapshot')
            AND NOT EXISTS (SELECT FROM docora.app_repositories
                            WHERE last_scanned_at >= %(overdue_before)s))
)"""

MATCHES = f"""(
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
    AND (%(last_scan_before)s::timestamptz IS NULL OR l.last_scanned_at IS NULL
         OR l.last_scanned_at < %(last_scan_before)s::timestamptz)
    AND (%(last_scan_after)s::timestamptz IS NULL
         OR l.last_scanned_at >= %(last_scan_after)s::timestamptz)
    AND (%(overdue_before)s::timestamptz IS NULL OR {OVERDUE})
)"""

COUNT_MATCHING = f"SELECT count(*) FROM {LINKS} WHERE {MATCHES}"

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
SELECT {_PUBLIC}, l.status, l.retry_count, l.last_error, r.circuit_open_until,
    coalesce(r.circuit_open_until > now(), false)
{_OF_LINK}
"""

# A bulk operation skips what we hold here; a worker waits for it.
LOCK_LINK = """
SELECT 1 FROM docora.app_repositories
WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s FOR UPDATE
"""

# Who runs a snapshot holds the session advisory lock of its job id, a 64-bit key that pg_locks
# shows in two halves. We only look: were we to hold the lock until our commit, a worker fast
# enough to take up the new job before that would find it taken and drop the job.
HELD_JOB_IDS = """
WITH held AS (
    SELECT (classid::bigint << 32) | objid::bigint AS key
    FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT job_id FROM unnest(%(job_ids)s::text[]) AS job_id
WHERE hashtextextended(job_id, 0) IN (SELECT key FROM held)
"""

# The limit keeps Postgres from reading the whole table: it looks up one link after the other.
LINKED_JOBS = """
SELECT job_id FROM unnest(%(job_ids)s::text[]) AS job_id
CROSS JOIN LATERAL (
    SELECT FROM docora.app_repositories
    WHERE app_id = split_part(job_id, '-', 1) AND repository_id = split_part(job_id, '-', 2) LIMIT 1
) l
"""

NAMES_OF_LINKS = """
SELECT a.app_name, r.owner || '/' || r.name
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[])
    WITH ORDINALITY AS link(app_id, repository_id, number)
LEFT JOIN docora.apps a USING (app_id) LEFT JOIN docora.repositories r USING (repository_id)
ORDER BY link.number
"""

REFS_OF_LINKS = """
SELECT l.id::text, link.app_id, link.repository_id
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[])
    WITH ORDINALITY AS link(app_id, repository_id, number)
CROSS JOIN LATERAL (
    SELECT id FROM docora.app_repositories
    WHERE app_id = link.app_id AND repository_id = link.repository_id LIMIT 1
) l
ORDER BY link.number
"""

_AS_LIKE = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_", "*": "%"})


def filter_parameters(which: LinkFilter) -> dict[str, object]:
    """Returns the parameters of `MATCHES`."""
    return {
        "statuses": [status.value for status in which.statuses] or None,
        "app_ids": list(which.app_ids) or None,
        "exclude_app_ids": list(which.exclude_app_ids) or None,
        "repository_ids": list(which.repository_ids) or None,
        "repository_names": [like(text) for text in which.repository_names] or None,
        "errors": [like(text, is_part=True) for text in which.errors] or None,
        "exclude_errors": [like(text, is_part=True) for text in which.exclude_errors] or None,
        "no_error": which.no_error,
        "open_circuit": which.open_circuit,
        "or_held_back": which.or_held_back,
        "last_scan_before": which.last_scan_before,
        "last_scan_after": which.last_scan_after,
        "overdue_before": which.overdue_before,
    }


def like(text: str, *, is_part: bool = False) -> str:
    """Returns the pattern for LIKE that matches the text, where `*` matches anything.

    is_part: text without `*` may stand anywhere.
    """
    pattern = text.translate(_AS_LIKE)
    return f"%{pattern}%" if is_part and "*" not in text else pattern


def read_link(database: Database, app_id: str, repository_id: str) -> Link | None:
    """Returns the link, if it exists, without locking it."""
    for row in database.rows(READ_LINK, {"app_id": app_id, "repository_id": repository_id}):
        ref, payload = LinkRef(row[0], row[1], row[3]), PublicPayload(*row[1:8])
        status, retry_count, error, *circuit = row[8:]
        return Link(ref, payload, status, retry_count, error and mask(error), *circuit)
    return None


def lock_link(database: Database, app_id: str, repository_id: str) -> Link | None:
    """Locks the link until the transaction ends and returns it. Raises LinkLockedError."""
    if not database.rows(LOCK_LINK, {"app_id": app_id, "repository_id": repository_id}):
        return None
    # A statement that waits for the row reads the rest, its app and repository, as before the wait.
    return read_link(database, app_id, repository_id)


def read_payload(database: Database, ref: LinkRef) -> Payload:
    """Returns what the job of a locked link needs, including secrets."""
    [row] = database.rows(f"SELECT {_PAYLOAD} {_OF_LINK}", asdict(ref))
    return Payload(*row[1:])


def held_job_ids(database: Database, job_ids: Sequence[str]) -> set[str]:
    """Returns the job ids whose session advisory lock a worker holds."""
    return {job_id for (job_id,) in database.rows(HELD_JOB_IDS, {"job_ids": list(job_ids)})}


def linked_jobs(database: Database, job_ids: Iterable[str]) -> set[str]:
    """Returns the job ids that have a link."""
    valid = [job_id for job_id in job_ids if ids_of_job(job_id)]
    return {each for (each,) in database.rows(LINKED_JOBS, {"job_ids": valid})} if valid else set()


def read_refs(database: Database, links: Sequence[LinkIds]) -> list[LinkRef]:
    """Returns the links with their row ids, in order. Omits links that are gone."""
    return [LinkRef(*row) for row in database.rows(REFS_OF_LINKS, _pairs(links))]


def names_of(database: Database, links: Sequence[LinkIds]) -> list[tuple[str | None, str | None]]:
    """Returns app name and `owner/name` of each link, in order; None for what is gone."""
    rows = database.rows(NAMES_OF_LINKS, _pairs(links))
    # One string for all links of an app or a repository: there may be a million.
    return [(app and intern(app), repository and intern(repository)) for app, repository in rows]


def _pairs(links: Sequence[LinkIds]) -> dict[str, list[str]]:
    return {
        "app_ids": [link.app_id for link in links],
        "repository_ids": [link.repository_id for link in links],
    }


# Delivery records

_OF_LINKS = """unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS l(app_id, repository_id)
WHERE d.app_id = l.app_id AND d.repository_id = l.repository_id
"""


_MATCHES_PATH = "AND d.file_path LIKE %(path)s"


def clear_deliveries(
    database: Database, links: Sequence[LinkIds], *, update: bool, path: str | None = None
) -> int:
    """Deletes the delivery records, or marks them as outdated (`update`). Returns their number.

    path: only those of files with such a path (case-sensitive); `*` matches any text.
    """
    of_links = _OF_LINKS + (_MATCHES_PATH if path else "")
    delete = f"DELETE FROM docora.app_delivered_files d USING {of_links}"
    # No content has this SHA-256: the next snapshot sends each of these files as an update, and a
    # deletion for each that is gone. Docora's worker takes an empty value for none, and sends no
    # `previous_sha`; one in the form of a SHA-256 also passes an app that checks the form.
    mark = f"UPDATE docora.app_delivered_files d SET file_sha = repeat('0', 64) FROM {of_links}"
    return database.execute(mark if update else delete, _of_links(links, path))


def count_deliveries(
    database: Database, links: Sequence[LinkIds], *, path: str | None = None
) -> int:
    """Counts the delivery records of the links. `path`: see `clear_deliveries`."""
    of_links = _OF_LINKS + (_MATCHES_PATH if path else "")
    sql = f"SELECT count(*) FROM docora.app_delivered_files d, {of_links}"
    [(count,)] = database.rows(sql, _of_links(links, path))
    return int(count)


COUNT_UNDELIVERED = """
SELECT count(DISTINCT f.path)
FROM docora.repository_snapshots s JOIN docora.snapshot_files f ON f.snapshot_id = s.id
WHERE s.repository_id = %(repository_id)s AND f.path LIKE %(path)s AND NOT EXISTS (
    SELECT FROM docora.app_delivered_files
    WHERE app_id = %(app_id)s AND repository_id = s.repository_id AND file_path = f.path
)
"""


def count_undelivered(database: Database, link: LinkIds, *, path: str) -> int:
    """Counts the files of the stored commit with such a path that have no delivery record."""
    ids = {"app_id": link.app_id, "repository_id": link.repository_id}
    [(count,)] = database.rows(COUNT_UNDELIVERED, ids | {"path": like(path)})
    return int(count)


def _of_links(links: Sequence[LinkIds], path: str | None) -> dict[str, object]:
    return {**_pairs(links), "path": like(path) if path else None}


# Claims

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


@dataclass(frozen=True, slots=True)
class Claim:
    """A link whose row is locked."""

    payload: Payload
    status: str  # before the claim
    # Why it is not claimed; None if it is. `NOT_QUEUED`: it was stuck for the last time that is
    # allowed, and is `failed` now.
    outcome: Outcome | None


# Locks links by their row ids, and changes those that still qualify. Omits those that are gone or
# locked by another session.
Claiming = Callable[[Database, Sequence[str]], list[Claim]]


def claim_matching_links(
    database: Database, ids: Sequence[str], *, which: LinkFilter
) -> list[Claim]:
    """Locks and resets the links that still match."""
    claims = _claim(database, ids, MATCHES, filter_parameters(which))
    if claimed := [id_ for id_ in claims if claims[id_].outcome is None]:
        database.execute(RESET_LINKS, {"ids": claimed})
    return list(claims.values())


def claim_unfinished_links(
    database: Database, ids: Sequence[str], *, error: str, max_attempts: int
) -> list[Claim]:
    """Locks the links that are still pending or scanning.

    Counts a failure with `error` for each scanning link, which becomes pending or, after
    `max_attempts` failures, `failed`.
    """
    claims = _claim(database, ids, "l.status IN ('pending_snapshot', 'scanning')", {})
    stuck = [
        id_
        for id_, claim in claims.items()
        if claim.outcome is None and claim.status == LinkStatus.SCANNING
    ]
    parameters = {"ids": stuck, "error": error, "max_attempts": max_attempts}
    for id_, status in database.rows(COUNT_CUT_OFF_SCANS, parameters) if stuck else ():
        if status == LinkStatus.FAILED:
            claims[id_] = replace(claims[id_], outcome=Outcome.NOT_QUEUED)
    return list(claims.values())


def claim_links_at_rest(database: Database, ids: Sequence[str]) -> list[Claim]:
    """Locks the links that are still failed or in sync, and changes nothing."""
    return list(_claim(database, ids, "l.status IN ('failed', 'synced')", {}).values())


def claim_due_links(
    database: Database, ids: Sequence[str], *, rescan_interval_ms: int
) -> list[Claim]:
    """Locks the links that are still due, and changes nothing."""
    claims = _claim(database, ids, DUE, {"rescan_interval_ms": rescan_interval_ms})
    return list(claims.values())


def _claim(
    database: Database, ids: Sequence[str], qualifies: str, parameters: Mapping[str, object]
) -> dict[str, Claim]:
    """Locks the links and returns their claims by row id. `qualifies`: a condition in SQL."""
    locked = [id_ for (id_,) in database.rows(LOCK_LINKS, {"ids": list(ids)})]
    # A second statement judges the links: it sees everything that was committed before they were
    # locked. The first one would see apps and repositories as they were when it began.
    sql = _JUDGE_LINKS.format(qualifies=qualifies)
    rows = database.rows(sql, {"ids": locked, **parameters})
    payloads = {row[0]: Payload(*row[1:10]) for row in rows}
    held = held_job_ids(database, [payload.job_id for payload in payloads.values()])
    claims = {}
    for id_, *_, status, still_qualifies in rows:
        payload = payloads[id_]
        outcome = Outcome.ALREADY_RUNNING if payload.job_id in held else None
        claims[id_] = Claim(payload, status, outcome if still_qualifies else Outcome.SKIPPED)
    return claims


# Selections

_SELECT = """
SELECT l.id::text, l.app_id, l.repository_id
FROM docora.app_repositories l JOIN docora.repositories r USING (repository_id)
WHERE {condition}
ORDER BY row_number() OVER (PARTITION BY l.app_id ORDER BY l.repository_id), l.app_id
LIMIT %(limit)s
"""


@dataclass(frozen=True)
class Selection:
    """The links of a bulk operation, listed once at its start.

    Round-robin across apps, so that no app waits for all links of another app. Paging by status
    instead would walk over the dead index entries of all rows that are done.
    """

    refs: Sequence[LinkRef]
    by_app: Sequence[AppCount]
    claim: Claiming
    open_circuits_left_out: int | None = None
    # Due links that operations with `--in-flight` are going to queue, by operation id.
    left_to_operations: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Counts the links."""
        return len(self.refs)


def select_links(
    database: Database,
    which: LinkFilter,
    *,
    limit: int | None = None,
    skip_open_circuits: bool = False,
) -> Selection:
    """Selects at most `limit` links that match.

    skip_open_circuits: like `which.open_circuit` False, exclude and count links with an open one.
    """
    if skip_open_circuits or which.open_circuit is False:
        limit = 0 if which.open_circuit else limit
        which = replace(which, open_circuit=False)
        claimed = replace(which, or_held_back=False)
    else:
        held_back = [LinkStatus.PENDING_SNAPSHOT] if which.or_held_back else []
        # The first batch, or the first link that a worker scans, closes the circuit. The links were
        # chosen before that, so the later ones are not skipped for it.
        statuses = [*which.statuses, *held_back]
        claimed = replace(which, statuses=statuses, or_held_back=False, open_circuit=None)
    claim = partial(claim_matching_links, which=claimed)
    parameters = {**filter_parameters(which), "limit": limit}
    selection = _select(database, MATCHES, parameters, claim)
    if which.open_circuit is not False:
        return selection
    [(left_out,)] = database.rows(COUNT_MATCHING, parameters | {"open_circuit": True})
    return replace(selection, open_circuits_left_out=left_out)


def select_due(database: Database, rescan_interval_ms: int) -> Selection:
    """Selects the links that are due, as Docora's own scheduler does."""
    parameters = {"rescan_interval_ms": rescan_interval_ms, "limit": None}
    claim = partial(claim_due_links, rescan_interval_ms=rescan_interval_ms)
    return _select(database, DUE, parameters, claim)


def _select(
    database: Database, condition: str, parameters: Mapping[str, object], claim: Claiming
) -> Selection:
    with database.snapshot():
        rows = database.stream(_SELECT.format(condition=condition), parameters)
        # One string for all links of an app: there may be a million.
        refs = [LinkRef(id_, intern(app_id), repository_id) for id_, app_id, repository_id in rows]
        counts = Counter(ref.app_id for ref in refs)
        sql = "SELECT app_id, app_name FROM docora.apps WHERE app_id = ANY (%(app_ids)s::text[])"
        names: dict[str, str] = dict(database.rows(sql, {"app_ids": list(counts)}))
    by_app = [AppCount(app_id, names[app_id], count) for app_id, count in counts.items()]
    return Selection(refs, by_app, claim)


# Links that should have a live job

# A new link gets its job a moment later, so it is left out for five minutes. One that is scanned
# has had its job, and one that is asked for by id is wanted whatever its age.
_UNFINISHED = """FROM docora.app_repositories WHERE status IN ('pending_snapshot', 'scanning')
    AND (status = 'scanning' OR NOT %(only_stuck)s::boolean
         AND (%(id)s::uuid IS NOT NULL OR created_at < now() - interval '5 minutes'))
    AND (%(app_id)s::text IS NULL OR app_id = %(app_id)s)
    AND (%(id)s::uuid IS NULL OR id = %(id)s::uuid)
"""

# Materialized, or Postgres would, with statistics from before a bulk change, read the whole table
# up to the limit.
UNFINISHED_LINKS = f"""
WITH unfinished AS MATERIALIZED (SELECT id::text, app_id, repository_id, status {_UNFINISHED})
SELECT * FROM unfinished ORDER BY app_id, repository_id LIMIT %(limit)s
"""

# Links that should have a live job, and those that are to get one: their jobs may already read as
# waiting, and stand nowhere.
LINKS_TO_CHECK = """
SELECT id::text, app_id, repository_id, status FROM docora.app_repositories
WHERE (
    status = 'scanning'
    OR %(id)s::uuid IS NOT NULL AND status IN ('pending_snapshot', 'failed', 'synced')
    OR status = 'pending_snapshot' AND created_at < now() - interval '5 minutes'
    OR %(rescan_interval_ms)s::bigint IS NOT NULL AND (
        status = 'failed'
        OR status = 'synced' AND (last_scanned_at IS NULL OR last_scanned_at
            < now() - %(rescan_interval_ms)s::bigint * interval '1 millisecond')
    )
)
AND (%(only_app)s::text IS NULL OR app_id = %(only_app)s)
AND (%(id)s::uuid IS NULL OR id = %(id)s::uuid)
AND (app_id, repository_id) > (%(app_id)s::text, %(repository_id)s::text)
ORDER BY app_id, repository_id LIMIT %(limit)s
"""

# Statistics may be misleading: with any other plan, Postgres would sort all links for each page.
_READ_IN_ORDER = """
SELECT set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true),
    set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)
"""

# An INSERT of a link takes a key share lock on its repository's row, so it waits for this lock.
LOCK_REPOSITORIES = """
WITH locked AS (
    SELECT repository_id FROM docora.repositories WHERE repository_id = ANY (%(ids)s::text[])
    FOR UPDATE SKIP LOCKED
)
SELECT repository_id FROM locked
UNION ALL
SELECT wanted FROM unnest(%(ids)s::text[]) AS wanted
WHERE NOT EXISTS (SELECT FROM docora.repositories WHERE repository_id = wanted)
"""


def unfinished_links(
    database: Database,
    *,
    app_id: str | None = None,
    link_id: str | None = None,
    only_stuck: bool = False,
    limit: int | None = None,
) -> list[tuple[LinkRef, str]]:
    """Returns links that should have a live job (`only_stuck`: that are scanned), with status."""
    parameters = {"app_id": app_id, "id": link_id, "only_stuck": only_stuck, "limit": limit}
    # One string for all links of an app or a repository: there may be a million.
    return [
        (LinkRef(id_, intern(app_id), intern(repository_id)), status)
        for id_, app_id, repository_id, status in database.rows(UNFINISHED_LINKS, parameters)
    ]


def pages_of_links_to_check(
    database: Database,
    *,
    app_id: str | None,
    link_id: str | None,
    rescan_interval_ms: int | None,
    size: int,
) -> Iterator[list[tuple[LinkRef, str]]]:
    """Yields pages of the links that should have a live job, and of failed and due links.

    Each link comes with its status. No transaction is open between the pages.

    link_id: only this link, whatever its age and status.
    rescan_interval_ms: age of the last scan of a due link; None: without failed and due links.
    """
    only = {"only_app": app_id, "id": link_id, "rescan_interval_ms": rescan_interval_ms}
    after, is_last = {"app_id": "", "repository_id": ""}, False
    while not is_last:
        with database.snapshot():
            if link_id is None:
                database.execute(_READ_IN_ORDER)
            rows = database.rows(LINKS_TO_CHECK, only | after | {"limit": size})
        page = [
            (LinkRef(id_, intern(app), intern(repository)), intern(status))
            for id_, app, repository, status in rows
        ]
        yield page
        is_last = len(page) < size
        if page:
            last, _ = page[-1]
            after = {"app_id": last.app_id, "repository_id": last.repository_id}


def count_unfinished_links(database: Database) -> int:
    """Counts the links that should have a live job."""
    all_links = {"app_id": None, "id": None, "only_stuck": False}
    [(count,)] = database.rows(f"SELECT count(*) {_UNFINISHED}", all_links)
    return int(count)


def lock_against_new_links(database: Database, repository_ids: Collection[str]) -> set[str]:
    """Locks repositories, so that no link to them can be created until the transaction ends.

    Returns the ids that are locked now or do not exist. Other sessions hold the rest.
    """
    rows = database.rows(LOCK_REPOSITORIES, {"ids": list(repository_ids)})
    return {id_ for (id_,) in rows}
