"""Finds apps and repositories by id, name or URL."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from docora_ops.database.link_rows import like
from docora_ops.database.postgres import Database
from docora_ops.links import App, Repository
from docora_ops.text import inert, mask

_SUGGESTION_POOL = 5000  # names that are compared for suggestions

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

_APPS = "SELECT app_id AS id, app_name AS name FROM docora.apps"

_REPOSITORIES = f"""
SELECT repository_id AS id, owner || '/' || name AS name FROM docora.repositories r
WHERE {_IS_LINKED}
"""

_SOME = "SELECT name, id FROM ({candidates}) candidates ORDER BY name LIMIT %(limit)s"

# ^@ (starts with) rather than LIKE, in which % and _ are wildcards.
_BY_PREFIX = """
SELECT id, name, by_name
FROM (
    SELECT *, lower(name) ^@ ANY (ARRAY (SELECT lower(unnest(%(forms)s::text[])))) AS by_name
    FROM ({candidates}) candidates
) compared
WHERE by_name OR id ^@ %(text)s
ORDER BY by_name DESC, lower(name), id LIMIT %(limit)s
"""


# Names by which find_apps or find_repositories finds nothing but this id, in either Unicode form.
CLEAR_NAMES = """
SELECT a.app_id, a.app_name FROM docora.apps a
WHERE a.app_id = ANY (%(ids)s::text[]) AND NOT EXISTS (
    SELECT FROM docora.apps o WHERE o.app_id <> a.app_id AND o.app_id = a.app_name
) AND NOT EXISTS (
    SELECT FROM docora.apps o
    WHERE o.app_id <> a.app_id AND lower(normalize(o.app_name)) = lower(normalize(a.app_name))
)
UNION ALL
SELECT r.repository_id, r.owner || '/' || r.name FROM docora.repositories r
WHERE r.repository_id = ANY (%(ids)s::text[]) AND NOT EXISTS (
    SELECT FROM docora.app_repositories l JOIN docora.repositories o USING (repository_id)
    WHERE l.app_id = ANY (%(ids)s::text[]) AND o.repository_id <> r.repository_id
      AND lower(normalize(o.owner || '/' || o.name)) = lower(normalize(r.owner || '/' || r.name))
)
"""
_LIKE_AN_ID = re.compile(r"-|(?:app|repo|bulk)_")


@dataclass(frozen=True)
class Candidate:
    """An app or a repository whose name or id begins with a typed text."""

    id: str
    name: str
    by_name: bool  # False if only the id begins with the text


def find_apps(database: Database, text: str) -> list[App]:
    """Returns the app with this id, otherwise all apps with this name (case-insensitive)."""
    parameters = {"text": text, "forms": _forms(text)}
    apps = [App(*row) for row in database.rows(APPS_BY_ID_OR_NAME, parameters)]
    return apps[:1] if apps and apps[0].app_id == text else apps


def app_names(database: Database, app_ids: Sequence[str]) -> dict[str, str]:
    """Returns the names of these apps by id. Omits apps that are gone."""
    sql = "SELECT app_id, app_name FROM docora.apps WHERE app_id = ANY (%(app_ids)s::text[])"
    return dict(database.rows(sql, {"app_ids": list(app_ids)}))


def find_repositories(
    database: Database, app_ids: Sequence[str], text: str
) -> list[tuple[Repository, bool]]:
    """Returns the repository with this id, otherwise all with this `owner/name` or GitHub URL.

    Pairs each with whether it is linked to one of the apps. Of several with this name or URL, omits
    those that are not linked, unless none is.

    app_ids: an empty list means all apps.
    """
    scheme, _, rest = text.lower().partition("://")
    stem = rest.rstrip("/").removesuffix(".git")
    endings = ("", ".git", "/") if stem and scheme in {"http", "https"} else ()
    parameters = {
        "app_ids": list(app_ids) or None,
        "text": text,
        "forms": _forms(text),
        "urls": [f"{scheme}://{stem}{end}" for scheme in ("https", "http") for end in endings],
    }
    rows = database.rows(REPOSITORIES_BY_ID_NAME_OR_URL, parameters)
    repositories = [(Repository(*names), is_linked) for *names, is_linked in rows]
    if repositories and repositories[0][0].repository_id == text:
        return repositories[:1]
    return [item for item in repositories if item[1]] or repositories


def clear_names(database: Database, ids: Collection[str]) -> dict[str, str]:
    """Returns, by id, the names that a command accepts in place of these ids.

    Omits names that are ambiguous, that look like an id, an option or a pattern, or that can't be
    printed as they are.
    """
    return {
        id_: name
        for id_, name in database.rows(CLEAR_NAMES, {"ids": list(ids)})
        if inert(mask(name)) == name == name.strip() != ""
        and not _LIKE_AN_ID.match(name)
        and "*" not in name
    }


def has_repository_like(database: Database, app_ids: Sequence[str], name: str) -> bool:
    """Tells whether a repository that matches `name` is linked to one of the apps.

    app_ids: empty means any app.
    name: `owner/name` (case-insensitive); `*` matches any text.
    """
    parameters = {"app_ids": list(app_ids) or None, "pattern": like(name)}
    return bool(database.rows(ANY_REPOSITORY_LIKE, parameters))


def some_apps(database: Database) -> dict[str, str]:
    """Returns names of apps to suggest, with their ids."""
    return dict(database.rows(_SOME.format(candidates=_APPS), {"limit": _SUGGESTION_POOL}))


def some_repositories(database: Database, app_ids: Sequence[str]) -> dict[str, str]:
    """Returns names of linked repositories to suggest, with ids. `app_ids`: empty means any."""
    parameters = {"app_ids": list(app_ids) or None, "limit": _SUGGESTION_POOL}
    return dict(database.rows(_SOME.format(candidates=_REPOSITORIES), parameters))


def apps_by_prefix(database: Database, text: str, limit: int) -> list[Candidate]:
    """Returns the apps whose name begins with the text, then those whose id does."""
    parameters = {"text": text, "forms": _forms(text), "limit": limit}
    rows = database.rows(_BY_PREFIX.format(candidates=_APPS), parameters)
    return [Candidate(*row) for row in rows]


def repositories_by_prefix(
    database: Database, text: str, limit: int, app_ids: Sequence[str] | None
) -> list[Candidate]:
    """Returns the repositories whose `owner/name` begins with the text, then those whose id does.

    app_ids: only repositories linked to one of these apps; None means any app.
    """
    parameters = {"text": text, "forms": _forms(text), "limit": limit, "app_ids": app_ids}
    rows = database.rows(_BY_PREFIX.format(candidates=_REPOSITORIES), parameters)
    return [Candidate(*row) for row in rows]


def _forms(text: str) -> list[str]:
    """Returns the text in each Unicode form: `é` as one character, and as `e` with an accent."""
    return [text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))]
