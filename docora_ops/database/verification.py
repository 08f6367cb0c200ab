"""Compares delivered files with the files of the stored commit, in Postgres.

Workers of Docora and of docora-ops set a link to `scanning` before they send the first file, and
store the commit before they set the link to `synced`. Each statement sees the links, their
deliveries and the stored commit as they were at one moment.

Each scan of any link of a repository replaces the stored commit, so delivery records may differ
from it although nothing is lost. Only the deliveries of the link whose scan has stored the commit
must match it. This link is known in three cases:

- A worker of docora-ops stores the commit and sets the link to `synced` in one transaction, so
  `scanned_at` and `last_scanned_at` are equal.
- A worker of Docora stores the commit, and a little later sets the link to `synced`. Both times are
  of the worker's clock. The link is known if its scan ended at most a minute after the commit was
  stored, and if no other link's scan can have stored the commit. Another link's scan can have
  stored it if that scan ended later than the commit was stored, or if that link is not `synced`:
  its scan may be running, or may have been interrupted after storing the commit. The minute
  excludes other links that were removed meanwhile.
- A worker of Docora stores the first commit of a repository with the time of Postgres's clock,
  which may be ahead of the worker's clock. Such a time has microseconds; a time of the worker's
  clock has none. The link is known if no other link was ever scanned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from docora_ops.database.link_rows import like
from docora_ops.database.postgres import Database
from docora_ops.links import LinkRef

EXAMPLES = 3  # of each kind of difference, for each link
LONGEST_PATH = 1024  # characters of a path that the table of delivery records can hold
LONGEST_INDEXED = 2600  # bytes of a path that an index can hold, together with two ids
_LONGEST_STORING = "1 minute"  # Docora's worker stores a commit within this time


class FileDifference(StrEnum):
    """How a delivery record differs from the stored commit."""

    MISSING = "missing"  # in the commit, but not delivered
    OUTDATED = "outdated"  # delivered with another SHA-256
    EXTRA = "extra"  # delivered, but not in the commit


class Doubt(StrEnum):
    """Why a difference may mean nothing: another link's scan may have stored the commit."""

    SCANNED_EARLIER = "scanned_earlier"  # the link's last scan is older than the commit
    SCANNED_LATER = "scanned_later"  # the link's last scan ended long after the commit was stored
    SCANNED_TOGETHER = "scanned_together"  # another link's scan also ended after the commit
    OTHER_UNFINISHED = "other_unfinished"  # another link's scan runs, or may have been interrupted


@dataclass(frozen=True)
class Compare:
    """What to compare.

    path: only files whose path matches (case-sensitive); `*` matches any text; None means all.
    in_detail: count the files of the commit, and also compare failed and pending links.
    """

    path: str | None = None
    in_detail: bool = False


@dataclass(frozen=True, slots=True)
class DifferingFile:
    """One file that differs."""

    path: str
    difference: FileDifference


# With outdated statistics, Postgres might otherwise scan a whole table for each link.
_PLAN_SAFELY = """
SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)
"""

_FITS = f"""(
    (%(path)s::text IS NULL OR {{0}} LIKE %(path)s)
    AND length({{0}}) <= {LONGEST_PATH} AND octet_length({{0}}) <= {LONGEST_INDEXED}
)"""

# Omits links that are not compared (see `ComparedLink`): even comparing no files takes time.
# The join keeps only rows without an equal partner. A path may be stored twice, with two contents:
# it counts as delivered if one of the contents is.
COMPARE_LINKS = f"""
WITH page AS MATERIALIZED (
    SELECT l.id, l.app_id, l.repository_id, l.status, l.last_scanned_at
    FROM docora.app_repositories l WHERE l.id = ANY (%(ids)s::uuid[])
),
repository AS MATERIALIZED (
    SELECT r.repository_id, s.id AS snapshot_id, s.scanned_at
    FROM (SELECT DISTINCT repository_id FROM page) r LEFT JOIN LATERAL (
        SELECT id, scanned_at FROM docora.repository_snapshots
        WHERE repository_id = r.repository_id LIMIT 1
    ) s ON true
),
chosen AS MATERIALIZED (SELECT * FROM page JOIN repository USING (repository_id)),
compared AS MATERIALIZED (
SELECT l.id, l.last_scanned_at, doubt, c.*, (
    SELECT count(DISTINCT path) FROM docora.snapshot_files
    WHERE %(in_detail)s::boolean AND snapshot_id = l.snapshot_id AND {_FITS.format("path")}
) AS files,
    concat_ws(' ', c.digest, l.scanned_at, l.last_scanned_at, doubt) AS state
FROM (
    SELECT * FROM chosen
    WHERE (status = 'synced' OR %(in_detail)s::boolean AND status <> 'scanning')
      AND snapshot_id IS NOT NULL
) l CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE kind = 'missing') AS missing,
        count(*) FILTER (WHERE kind = 'outdated') AS outdated,
        count(*) FILTER (WHERE kind = 'extra') AS extra,
        sum(hashtextextended(concat_ws(' ', kind, delivered, stored, path), 0)) AS digest,
        array_agg(kind ORDER BY kind, place) FILTER (WHERE place <= {EXAMPLES}) AS kinds,
        array_agg(path ORDER BY kind, place) FILTER (WHERE place <= {EXAMPLES}) AS paths
    FROM (
        SELECT *, row_number() OVER (PARTITION BY kind ORDER BY path) AS place
        FROM (
            SELECT path, min(delivered) AS delivered, min(stored) AS stored,
                CASE WHEN count(delivered) = 0 THEN 'missing' WHEN count(stored) = 0 THEN 'extra'
                    ELSE 'outdated' END AS kind
            FROM (
                SELECT coalesce(d.path, f.path) AS path, d.sha AS delivered, f.sha AS stored
                FROM (
                    SELECT file_path::text COLLATE "C" AS path, file_sha::text AS sha
                    FROM docora.app_delivered_files
                    WHERE app_id = l.app_id AND repository_id = l.repository_id
                      AND {_FITS.format("file_path")}
                ) d
                FULL JOIN (
                    SELECT path::text COLLATE "C" AS path, sha::text AS sha
                    FROM docora.snapshot_files
                    WHERE snapshot_id = l.snapshot_id AND {_FITS.format("path")}
                ) f ON d.path = f.path AND d.sha = f.sha
                WHERE d.path IS NULL OR f.path IS NULL
            ) unequal
            GROUP BY path
        ) file
        WHERE kind <> 'missing' OR NOT EXISTS (
            SELECT FROM docora.app_delivered_files
            WHERE app_id = l.app_id AND repository_id = l.repository_id
              AND file_path = file.path COLLATE "default"
        )
    ) placed
) c CROSS JOIN LATERAL (
    SELECT bool_or(last_scanned_at = l.scanned_at) AS has_stored,
        bool_or(last_scanned_at >= l.scanned_at) AS has_ended_since,
        bool_or(last_scanned_at IS NOT NULL) AS was_scanned,
        bool_or(status <> 'synced') AS is_unfinished
    FROM docora.app_repositories
    WHERE c.missing + c.outdated + c.extra > 0 AND repository_id = l.repository_id AND id <> l.id
) other CROSS JOIN LATERAL (
    SELECT CASE
        WHEN c.missing + c.outdated + c.extra = 0 THEN NULL
        WHEN isfinite(l.last_scanned_at) AND l.last_scanned_at = l.scanned_at
            AND other.has_stored IS NOT TRUE THEN NULL
        WHEN l.last_scanned_at = date_trunc('milliseconds', l.last_scanned_at)
            AND l.scanned_at <> date_trunc('milliseconds', l.scanned_at)
            AND other.was_scanned IS NOT TRUE THEN NULL
        WHEN (l.last_scanned_at >= l.scanned_at) IS NOT TRUE THEN '{Doubt.SCANNED_EARLIER}'
        WHEN l.last_scanned_at > l.scanned_at + interval '{_LONGEST_STORING}'
            OR NOT isfinite(l.last_scanned_at) THEN '{Doubt.SCANNED_LATER}'
        WHEN other.has_ended_since THEN '{Doubt.SCANNED_TOGETHER}'
        WHEN other.is_unfinished THEN '{Doubt.OTHER_UNFINISHED}'
    END AS doubt
) d
)
SELECT l.id::text, l.app_id, l.repository_id, l.status, c.last_scanned_at,
    l.snapshot_id IS NOT NULL, c.doubt,
    coalesce(c.missing, 0), coalesce(c.outdated, 0), coalesce(c.extra, 0),
    coalesce(c.state, ''), c.files, c.kinds, c.paths
FROM chosen l LEFT JOIN compared c USING (id)
ORDER BY l.repository_id, l.app_id
"""

LINK_IDS = """
SELECT id::text FROM docora.app_repositories
WHERE %(only_app)s::text IS NULL OR app_id = %(only_app)s::text
ORDER BY repository_id, app_id
"""


@dataclass(frozen=True, slots=True)
class ComparedLink:
    """A link, and how its delivered files differ from the stored commit.

    A link is compared if it `has_commit` and is `synced`. With `Compare.in_detail`, every link is
    compared that `has_commit` and is not `scanning`.

    last_scanned_at: None unless the link is compared.
    has_commit: the repository has a stored commit.
    doubt: None if no file differs, or if the link's own scan has stored the commit.
    missing, outdated, extra: numbers of files; 0 unless the link is compared.
    state: a digest of the differences. Two comparisons with the same state mean that nothing has
        changed in between. Empty unless the link is compared.
    files: the number of files of the stored commit that match `Compare.path`; None if the link is
        not compared, 0 without `Compare.in_detail`.
    """

    ref: LinkRef
    status: str
    last_scanned_at: datetime | None
    has_commit: bool
    doubt: Doubt | None
    missing: int
    outdated: int
    extra: int
    state: str
    files: int | None
    examples: Sequence[DifferingFile]

    @property
    def differs(self) -> bool:
        """Tells whether a file differs."""
        return self.missing + self.outdated + self.extra > 0


def link_ids(database: Database, app_id: str | None) -> list[str]:
    """Returns the row ids of the links of an app, or of all links if `app_id` is None.

    Sorted by repository, because links of one repository are compared with the same rows.
    """
    return [link_id for (link_id,) in database.rows(LINK_IDS, {"only_app": app_id})]


def compare_links(database: Database, which: Compare, ids: Sequence[str]) -> list[ComparedLink]:
    """Compares the links with these row ids. Omits links that no longer exist."""
    path = like(which.path) if which.path else None
    parameters = {"ids": list(ids), "path": path, "in_detail": which.in_detail}
    with database.consistent_reads():
        database.rows(_PLAN_SAFELY)
        rows = database.rows(COMPARE_LINKS, parameters)
    links = []
    for *ref, status, scanned_at, stored, doubt, m, o, e, state, files, kinds, paths in rows:
        pairs = zip(kinds or (), paths or (), strict=True)
        examples = [DifferingFile(path, FileDifference(kind)) for kind, path in pairs]
        facts = (status, scanned_at, stored, doubt and Doubt(doubt), m, o, e, state)
        links.append(ComparedLink(LinkRef(*ref), *facts, files, examples))
    return links
