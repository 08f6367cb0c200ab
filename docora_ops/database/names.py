"""Finds apps and repositories by id, name or URL."""

from collections.abc import Sequence

from docora_ops.database.connection import Database
from docora_ops.database.links import like
from docora_ops.links import App, Repository

APPS_BY_ID_OR_NAME = """
SELECT app_id, app_name, base_url, email FROM apps
WHERE app_id = %(text)s OR lower(app_name) = lower(%(text)s)
ORDER BY app_id = %(text)s DESC, app_id
"""

_IS_LINKED = """EXISTS (
    SELECT FROM app_repositories l
    WHERE (%(app_ids)s::text[] IS NULL OR l.app_id = ANY (%(app_ids)s::text[]))
      AND l.repository_id = r.repository_id
)"""

REPOSITORIES_BY_ID_NAME_OR_URL = f"""
SELECT repository_id, owner || '/' || name, {_IS_LINKED}
FROM repositories r
WHERE repository_id = %(text)s
   OR lower(owner || '/' || name) = lower(%(text)s)
   OR lower(github_url) = ANY (%(urls)s::text[])
ORDER BY repository_id = %(text)s DESC, repository_id
"""

ANY_REPOSITORY_LIKE = f"""
SELECT FROM repositories r
WHERE r.owner || '/' || r.name ILIKE %(pattern)s AND {_IS_LINKED} LIMIT 1
"""

_APPS = "SELECT app_id AS id, app_name AS name FROM apps"

_REPOSITORIES = f"""
SELECT repository_id AS id, owner || '/' || name AS name FROM repositories r
WHERE {_IS_LINKED}
"""

# ^@ (starts with) rather than LIKE, in which % and _ are wildcards.
_BY_PREFIX = """
SELECT id, name FROM ({candidates}) candidates
WHERE lower(name) ^@ lower(%(text)s) OR id ^@ %(text)s
ORDER BY lower(name) ^@ lower(%(text)s) DESC, lower(name), id LIMIT %(limit)s
"""


def find_apps(database: Database, text: str) -> list[App]:
    """Returns the app with this id, otherwise all apps with this name (case-insensitive)."""
    apps = [App(*row) for row in database.rows(APPS_BY_ID_OR_NAME, {"text": text})]
    return apps[:1] if apps and apps[0].app_id == text else apps


def find_repositories(
    database: Database, app_ids: Sequence[str], text: str
) -> list[tuple[Repository, bool]]:
    """Returns the repository with this id, otherwise all with this `owner/name` or GitHub URL.

    Each repository comes with whether it is linked to one of the apps. Omits unlinked repositories
    if a linked repository was found.

    app_ids: an empty list means all apps.
    """
    scheme, _, rest = text.lower().partition("://")
    stem = rest.rstrip("/").removesuffix(".git")
    endings = ("", ".git", "/") if stem and scheme in {"http", "https"} else ()
    parameters = {
        "app_ids": list(app_ids) or None,
        "text": text,
        "urls": [f"{scheme}://{stem}{end}" for scheme in ("https", "http") for end in endings],
    }
    rows = database.rows(REPOSITORIES_BY_ID_NAME_OR_URL, parameters)
    repositories = [(Repository(*names), is_linked) for *names, is_linked in rows]
    if repositories and repositories[0][0].repository_id == text:
        return repositories[:1]
    return [item for item in repositories if item[1]] or repositories


def has_repository_like(database: Database, app_ids: Sequence[str], name: str) -> bool:
    """Tells whether a repository that matches `name` is linked to one of the apps.

    app_ids: empty means any app.
    name: `owner/name` (case-insensitive); `*` matches any text.
    """
    parameters = {"app_ids": list(app_ids) or None, "pattern": like(name, whole=True)}
    return bool(database.rows(ANY_REPOSITORY_LIKE, parameters))


def apps_by_prefix(database: Database, text: str, limit: int) -> dict[str, str]:
    """Returns the names, by id, of the apps whose name or id begins with the text.

    Sorted by name. Apps found only by their id come last.
    """
    parameters = {"text": text, "limit": limit}
    return dict(database.rows(_BY_PREFIX.format(candidates=_APPS), parameters))


def repositories_by_prefix(
    database: Database, text: str, limit: int, app_ids: Sequence[str]
) -> dict[str, str]:
    """Returns the names, by id, of the repositories whose name or id begins with the text.

    Names are `owner/name`. Sorted by name. Repositories found only by their id come last.

    app_ids: only repositories linked to one of these apps; empty means any app.
    """
    parameters = {"text": text, "limit": limit, "app_ids": list(app_ids) or None}
    return dict(database.rows(_BY_PREFIX.format(candidates=_REPOSITORIES), parameters))
