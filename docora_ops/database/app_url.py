"""Reads the URLs of apps and repositories and the tokens of links; sets an app's URL."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from docora_ops.database.postgres import Database
from docora_ops.links import App, LinkIds, ids_of_job

READ_BASE_URL = "SELECT base_url FROM docora.apps WHERE app_id = %(app_id)s"

# This lock does not block the creation of links of the app.
LOCK_BASE_URL = f"{READ_BASE_URL} FOR NO KEY UPDATE"

SET_BASE_URL = """
UPDATE docora.apps SET base_url = %(base_url)s, updated_at = now() WHERE app_id = %(app_id)s
RETURNING now()
"""

# `since` is null before the URL is changed.
LINKS_OF_OLD_URL = """
SELECT l.repository_id, r.owner || '/' || r.name
FROM docora.app_repositories l JOIN docora.repositories r USING (repository_id)
WHERE l.app_id = %(app_id)s AND (
    l.status = 'scanning' OR l.last_scanned_at >= %(since)s::timestamptz
    OR l.repository_id = ANY (%(repository_ids)s::text[])
)
ORDER BY r.owner, r.name, l.repository_id
"""

HAS_FAILED_LINKS = """
SELECT EXISTS (
    SELECT FROM docora.app_repositories WHERE app_id = %(app_id)s AND status = 'failed'
)
"""

READ_TOKENS = """
SELECT r.github_url, l.app_id, a.app_name, l.github_token_encrypted
FROM docora.repositories r JOIN docora.app_repositories l USING (repository_id)
JOIN docora.apps a USING (app_id)
WHERE repository_id = %(repository_id)s
    AND (%(app_id)s::text IS NULL OR app_id = %(app_id)s::text)
ORDER BY a.app_name, app_id
"""


@dataclass(frozen=True, slots=True)
class LinkToResync(LinkIds):
    """A link whose job may send files only to the app's old URL, yet set the link to `synced`."""

    app_id: str
    repository_id: str
    repository_name: str


@dataclass(frozen=True)
class LinkToken:
    """The token of an app's link. `encrypted`: None if the link has no token."""

    app: App
    encrypted: str | None = field(repr=False)


def read_base_url(database: Database, app_id: str, *, lock: bool = False) -> str | None:
    """Returns the base_url of an app; None if the app is gone. `lock`: lock the app's row."""
    rows = database.rows(LOCK_BASE_URL if lock else READ_BASE_URL, {"app_id": app_id})
    return str(rows[0][0]) if rows else None


def set_base_url(database: Database, app_id: str, base_url: str) -> datetime:
    """Replaces the base_url of an app. Returns the time of the change by Postgres's clock."""
    rows = database.rows(SET_BASE_URL, {"app_id": app_id, "base_url": base_url})
    when: datetime = rows[0][0]
    return when


def links_of_old_url(
    database: Database, app_id: str, jobs: Sequence[str], since: datetime | None
) -> list[LinkToResync]:
    """Returns an app's links whose jobs may send files to the old URL, sorted by repository name.

    These are the links of `jobs`, links that are being scanned, and links that were scanned since
    the change.

    jobs: ids of jobs that carry the old URL; jobs of other apps are ignored.
    since: when the URL was changed; None if it has not been changed yet.
    """
    pairs = filter(None, map(ids_of_job, jobs))
    ids = [repository_id for job_app_id, repository_id in pairs if job_app_id == app_id]
    values = {"app_id": app_id, "repository_ids": ids, "since": since}
    return [LinkToResync(app_id, *row) for row in database.rows(LINKS_OF_OLD_URL, values)]


def has_failed_links(database: Database, app_id: str) -> bool:
    """Tells whether the app has a failed link."""
    return bool(database.rows(HAS_FAILED_LINKS, {"app_id": app_id})[0][0])


def read_tokens(
    database: Database, repository_id: str, app_id: str | None = None
) -> tuple[str, list[LinkToken]]:
    """Returns the URL of a repository, and the tokens of its links. Without links, both are empty.

    app_id: only the link of this app; None means all apps.
    """
    rows = database.rows(READ_TOKENS, {"repository_id": repository_id, "app_id": app_id})
    url = str(rows[0][0]) if rows else ""
    return url, [LinkToken(App(app_id, name), token) for _, app_id, name, token in rows]
