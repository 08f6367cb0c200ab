"""Finding apps and repositories by id, name or URL."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from docora_ops.database.link_rows import like
from docora_ops.database.postgres import Database
from docora_ops.links import App, Repository

_SUGGESTION_POOL = 5000
"""Names that are compared for suggestions."""

APPS_BY_ID_OR_NAME = """
SELECT app_id, app_name FROM docora.apps
WHERE app_id = %(text)s OR lower(app_name) = ANY (SELECT lower(unnest(%(forms)s::text[])))
ORDER BY app_id = %(text)s DESC, app_id
"""

_IS_LINKED = """EXISTS (
    SELECT FROM docora.app_repositories l
    WHERE (%(app_ids)s::text[] IS NULL OR l.app_id = ANY (%(app_ids)s::text[]))
      AND l.repository_id = r.repository_id
)"""

REPOSITORIES_BY_ID_NAME_OR_URL = f"""
SELECT repository_id, owner, name, {_IS_LINKED}
FROM docora.repositories r
WHERE repository_id = %(text)s
   OR lower(owner || '/' || name) = ANY (SELECT lower(unnest(%(forms)s::text[])))
   OR lower(github_url) = ANY (%(urls)s::text[])
ORDER BY repository_id = %(text)s DESC, repository_id
"""

ANY_REPOSITORY_LIKE = f"""
SELECT FROM docora.repositories r
WHERE r.owner || '/' || r.name ILIKE %(pattern)s AND {_IS_LINKED} LIMIT 1
"""

SOME_APPS = "SELECT app_id, app_name FROM docora.apps ORDER BY app_name LIMIT %(limit)s"

SOME_REPOSITORIES = f"""
SELECT r.repository_id, r.owner, r.name FROM docora.repositories r
WHERE {_IS_LINKED} ORDER BY r.owner || '/' || r.name LIMIT %(limit)s
"""

# ^@ and not LIKE, which would give `%` and `_` in the text a meaning.
_BY_PREFIX = """
SELECT id, name, by_name
FROM (
    SELECT *, lower(name) ^@ ANY (ARRAY (SELECT lower(unnest(%(forms)s::text[])))) AS by_name
    FROM ({candidates}) candidates
) compared
WHERE by_name OR id ^@ %(text)s
ORDER BY by_name DESC, comes_first DESC, lower(name), id LIMIT %(limit)s
"""

APPS_BY_PREFIX = _BY_PREFIX.format(
    candidates="SELECT app_id AS id, app_name AS name, false AS comes_first FROM docora.apps"
)

REPOSITORIES_BY_PREFIX = _BY_PREFIX.format(
    candidates=f"""
    SELECT repository_id AS id, owner || '/' || name AS name, %(failed_first)s AND EXISTS (
        SELECT FROM docora.app_repositories l
        WHERE l.app_id = ANY (%(app_ids)s::text[]) AND l.repository_id = r.repository_id
          AND l.status = 'failed'
    ) AS comes_first
    FROM docora.repositories r WHERE %(app_ids)s::text[] IS NULL OR {_IS_LINKED}
"""
)


@dataclass(frozen=True)
class Candidate:
    """An app or a repository that begins with a typed text."""

    id: str
    name: str
    by_name: bool
    """True if the name begins with the text, false if only the id does."""


def find_apps(database: Database, text: str) -> list[App]:
    """Returns the app with this id, otherwise all apps with this name, in any letter case."""
    parameters = {"text": text, "forms": _forms(text)}
    apps = [App(*row) for row in database.rows(APPS_BY_ID_OR_NAME, parameters)]
    return apps[:1] if apps and apps[0].app_id == text else apps


def find_apps_by_prefix(database: Database, text: str, limit: int) -> list[App]:
    """Returns the apps whose name begins with a text that is not blank, or whose id does."""
    found = apps_by_prefix(database, text, limit) if text.strip() else []
    return [App(each.id, each.name) for each in found]


def find_repositories(
    database: Database, app_ids: Sequence[str], text: str
) -> list[tuple[Repository, bool]]:
    """Returns the repository with this id, otherwise all with this `owner/name` or GitHub URL.

    Each with whether one of the apps, or any app if there are none, is linked to it. If some of
    the repositories are linked, returns only these.
    """
    scheme, separator, rest = text.lower().partition("://")
    stem = rest.rstrip("/").removesuffix(".git")
    is_url = separator and scheme in {"http", "https"}
    endings = ("", ".git", "/") if is_url else ()
    parameters = {
        "app_ids": list(app_ids) or None,
        "text": text,
        "forms": _forms(text),
        "urls": [f"{scheme}://{stem}{each}" for scheme in ("https", "http") for each in endings],
    }
    rows = database.rows(REPOSITORIES_BY_ID_NAME_OR_URL, parameters)
    found = [(Repository(*names), is_linked) for *names, is_linked in rows]
    if found and found[0][0].repository_id == text:
        return found[:1]
    return [each for each in found if each[1]] or found


def has_repository_like(database: Database, app_ids: Sequence[str], name: str) -> bool:
    """Tells whether one of the apps, or any app if there are none, has such a repository.

    `name`: `owner/name`, in any letter case, where `*` stands for anything.
    """
    parameters = {"app_ids": list(app_ids) or None, "pattern": like(name)}
    return bool(database.rows(ANY_REPOSITORY_LIKE, parameters))


def some_apps(database: Database) -> list[App]:
    """Returns apps whose names may be suggested."""
    return [App(*row) for row in database.rows(SOME_APPS, {"limit": _SUGGESTION_POOL})]


def some_repositories(database: Database, app_ids: Sequence[str]) -> list[Repository]:
    """Returns repositories whose names may be suggested: of these apps, or of any app."""
    parameters = {"app_ids": list(app_ids) or None, "limit": _SUGGESTION_POOL}
    return [Repository(*row) for row in database.rows(SOME_REPOSITORIES, parameters)]


def apps_by_prefix(database: Database, text: str, limit: int) -> list[Candidate]:
    """Returns the apps whose name begins with the text, then those whose id does."""
    parameters = {"text": text, "forms": _forms(text), "limit": limit}
    return [Candidate(*row) for row in database.rows(APPS_BY_PREFIX, parameters)]


def repositories_by_prefix(
    database: Database,
    text: str,
    limit: int,
    app_ids: Sequence[str] | None,
    *,
    failed_first: bool = False,
) -> list[Candidate]:
    """Returns the repositories whose `owner/name` begins with the text, then those whose id does.

    Only those linked to one of the apps, unless `app_ids` is None. With `failed_first`, those
    of a failed link come first.
    """
    parameters = {
        "text": text,
        "forms": _forms(text),
        "limit": limit,
        "app_ids": app_ids,
        "failed_first": failed_first,
    }
    return [Candidate(*row) for row in database.rows(REPOSITORIES_BY_PREFIX, parameters)]


def _forms(text: str) -> list[str]:
    """Returns the text in each Unicode form: `é` as one character, or as `e` and an accent."""
    return [text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))]
