"""Compares delivery records with the files of the stored commit, in Postgres.

Each scan of any link of a repository replaces the stored commit, so the records of another link may
differ from it although nothing is lost. Only the link whose own scan has stored the commit must
match: a worker of docora-ops stores the commit and sets the link to `synced` in one transaction, so
both times are equal; a worker of Docora sets the link a little later, and no other link of the
repository may have been scanned since.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from docora_ops.database.connection import Database

EXAMPLES = 3
_LONGEST_PATH = 1024  # characters that the table of delivery records can hold
_LONGEST_INDEXED = 2600  # bytes that its index can hold, together with two ids
_LONGEST_STORING = "1 minute"  # Docora's worker sets the link within this time

_COMPARE = f"""
WITH chosen AS MATERIALIZED (
    SELECT l.id, l.app_id, a.app_name, l.repository_id, r.owner || '/' || r.name AS name, l.status,
        l.last_scanned_at, s.id AS snapshot_id, s.scanned_at
    FROM app_repositories l JOIN apps a USING (app_id) JOIN repositories r USING (repository_id)
    LEFT JOIN repository_snapshots s USING (repository_id)
    WHERE l.id = ANY (%(ids)s::uuid[])
)
SELECT l.id::text, l.app_id, l.app_name, l.repository_id, l.name, l.status, l.last_scanned_at,
    l.snapshot_id IS NOT NULL,
    coalesce(
        l.last_scanned_at = l.scanned_at
        OR l.last_scanned_at BETWEEN l.scanned_at AND l.scanned_at + interval '{_LONGEST_STORING}'
        AND NOT EXISTS (
            SELECT FROM app_repositories o WHERE o.repository_id = l.repository_id AND o.id <> l.id
                AND (o.last_scanned_at >= l.scanned_at OR o.status <> 'synced')
        ), false),
    coalesce(missing, 0), coalesce(outdated, 0), coalesce(extra, 0), coalesce(examples, '{{}}')
FROM chosen l LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE kind = 'missing') AS missing,
        count(*) FILTER (WHERE kind = 'outdated') AS outdated,
        count(*) FILTER (WHERE kind = 'extra') AS extra,
        (array_agg(kind || ' ' || path ORDER BY path))[1:{EXAMPLES}] AS examples
    FROM (
        SELECT coalesce(d.path, f.path) AS path,
            CASE WHEN d.path IS NULL THEN 'missing' WHEN f.path IS NULL THEN 'extra'
                ELSE 'outdated' END AS kind
        FROM (
            SELECT file_path::text COLLATE "C" AS path, file_sha AS sha FROM app_delivered_files
            WHERE app_id = l.app_id AND repository_id = l.repository_id
        ) d FULL JOIN (
            -- Two files whose paths read the same have one delivery record.
            SELECT path::text COLLATE "C" AS path, array_agg(sha) AS shas FROM snapshot_files
            WHERE snapshot_id = l.snapshot_id AND length(path) <= {_LONGEST_PATH}
                AND octet_length(path) <= {_LONGEST_INDEXED}
            GROUP BY 1
        ) f ON d.path = f.path
        WHERE (d.sha = ANY (f.shas)) IS NOT TRUE
    ) difference
) c ON l.status = 'synced' AND l.snapshot_id IS NOT NULL
ORDER BY l.app_id, l.repository_id
"""


@dataclass(frozen=True)
class ComparedLink:
    """A link, and how its delivery records differ from the stored commit.

    has_commit: the repository has a stored commit.
    is_own: the link's own scan has stored the commit, so that a difference is certain.
    missing: files of the commit that were not delivered. outdated: delivered with other contents.
    extra: delivered, but not in the commit. All 0 unless the link is synced.
    examples: the first paths that differ, each with the kind of difference.
    """

    id: str
    app_id: str
    app_name: str
    repository_id: str
    repository_name: str
    status: str
    last_scanned_at: datetime | None
    has_commit: bool
    is_own: bool
    missing: int
    outdated: int
    extra: int
    examples: Sequence[str]

    @property
    def differs(self) -> bool:
        """Tells whether a file differs."""
        return self.missing + self.outdated + self.extra > 0


def compare_links(database: Database, ids: Sequence[str]) -> list[ComparedLink]:
    """Compares the links with these row ids. Leaves out links that are gone."""
    rows = database.rows(_COMPARE, {"ids": list(ids)})
    return [ComparedLink(*row) for row in rows]
