"""Finding apps and repositories by id, name or URL."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from docora_ops.database.postgres import Database
from docora_ops.links import App, Repository

_SUGGESTION_POOL = 5000
"""Names that are compared for suggestions."""

APPS_BY_ID_OR_NAME = """
SELECT app_id, app_name FROM apps
WHERE app_id = %(text)s OR lower(app_name) = ANY (SELECT lower(unnest(%(forms)s::text[])))
ORDER BY app_id = %(text)s DESC, app_id
"""

# starts_with, since LIKE would give `%` and `_` in the text a meaning.
APPS_BY_PREFIX = """
SELECT app_id, app_name FROM apps
WHERE starts_with(app_id, %(text)s) OR EXISTS (
    SELECT FROM unnest(%(forms)s::text[]) form WHERE starts_with(lower(app_name), lower(form))
)
ORDER BY app_name, app_id LIMIT %(limit)s
"""

REPOSITORIES_BY_ID_NAME_OR_URL = """
SELECT repository_id, owner, name, EXISTS (
    SELECT FROM app_repositories l
    WHERE (%(app_ids)s::text[] IS NULL OR l.app_id = ANY (%(app_ids)s::text[]))
      AND l.repository_id = r.repository_id
)
FROM repositories r
WHERE repository_id = %(text)s
   OR lower(owner || '/' || name) = ANY (SELECT lower(unnest(%(forms)s::text[])))
   OR lower(github_url) = ANY (%(urls)s)
ORDER BY repository_id = %(text)s DESC, repository_id
"""

SOME_APPS = "SELECT app_id, app_name FROM apps ORDER BY app_name LIMIT %(limit)s"

SOME_REPOSITORIES = """
SELECT r.repository_id, r.owner, r.name FROM repositories r
WHERE EXISTS (
    SELECT FROM app_repositories l
    WHERE (%(app_ids)s::text[] IS NULL OR l.app_id = ANY (%(app_ids)s::text[]))
      AND l.repository_id = r.repository_id
)
ORDER BY r.owner || '/' || r.name LIMIT %(limit)s
"""


def find_apps(database: Database, text: str) -> list[App]:
    """Returns the app with this id, otherwise all apps with this name, in any letter case."""
    parameters = {"text": text, "forms": _forms(text)}
    apps = [App(*row) for row in database.rows(APPS_BY_ID_OR_NAME, parameters)]
    return apps[:1] if apps and apps[0].app_id == text else apps


def find_apps_by_prefix(database: Database, text: str, limit: int) -> list[App]:
    """Returns apps whose name begins with the text, in any letter case, or whose id does."""
    if not text.strip():
        return []
    parameters = {"text": text, "forms": _forms(text), "limit": limit}
    return [App(*row) for row in database.rows(APPS_BY_PREFIX, parameters)]


def find_repositories(
    database: Database, app_ids: Sequence[str], text: str
) -> list[tuple[Repository, bool]]:
    """Returns the repository with this id, otherwise all with this `owner/name` or GitHub URL.

    Each with whether one of the apps, or any app if there are none, is linked to it. If some of
    the repositories are linked, returns only these.
    """
    spellings = {"forms": _forms(text), "urls": _spellings(text)}
    rows = database.rows(
        REPOSITORIES_BY_ID_NAME_OR_URL,
        {"app_ids": list(app_ids) or None, "text": text, **spellings},
    )
    found = [(Repository(*names), is_linked) for *names, is_linked in rows]
    if found and found[0][0].repository_id == text:
        return found[:1]
    return [each for each in found if each[1]] or found


def some_apps(database: Database) -> list[App]:
    """Returns apps whose names may be suggested."""
    return [App(*row) for row in database.rows(SOME_APPS, {"limit": _SUGGESTION_POOL})]


def some_repositories(database: Database, app_ids: Sequence[str]) -> list[Repository]:
    """Returns repositories whose names may be suggested: of these apps, or of any app."""
    parameters = {"app_ids": list(app_ids) or None, "limit": _SUGGESTION_POOL}
    return [Repository(*row) for row in database.rows(SOME_REPOSITORIES, parameters)]


def _forms(text: str) -> list[str]:
    """Returns the text in each Unicode form: `é` as one character, or as `e` and an accent."""
    return [text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))]


def _spellings(text: str) -> list[str]:
    """Returns the spellings of a GitHub URL that may be stored; none for other texts."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in {"http", "https"}:
        return []
    stem = rest.rstrip("/").lower().removesuffix(".git")
    return [
        f"{protocol}://{stem}{ending}"
        for protocol in ("https", "http")
        for ending in ("", ".git", "/")
    ]
