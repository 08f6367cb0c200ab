"""Finds the app, the repository and the link that a person names."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from shlex import quote

from docora_ops.database import Database
from docora_ops.database.link_rows import read_link
from docora_ops.database.names import app_names, find_apps, find_repositories, repository_names
from docora_ops.errors import AmbiguousError, NotFoundError
from docora_ops.links import App, Link, Repository
from docora_ops.text import mask


def resolve_app(database: Database, text: str) -> App:
    """Finds the app with this id or name; upper and lower case are the same.

    Raises NotFoundError with similar names, AmbiguousError with the ids of the candidates.
    """
    match find_apps(database, text):
        case [app]:
            return app
        case []:
            raise NotFoundError(
                f"no app {mask(text)!r}", hint=_did_you_mean(text, app_names(database), "app")
            )
        case apps:
            ids = [app.app_id for app in apps]
            raise _ambiguous(f"{len(ids)} apps are named {text!r}", "app_ids", ids)


def resolve_repository(database: Database, app: App, text: str) -> Repository:
    """Finds the repository with this id, `owner/name` or GitHub URL, best one that the app has.

    Raises NotFoundError with similar names of the app's repositories, AmbiguousError with the ids
    of the candidates.
    """
    match find_repositories(database, app.app_id, text):
        case [repository]:
            return repository
        case []:
            raise NotFoundError(
                f"no repository {mask(text)!r} for app {app.app_name!r}",
                hint=_did_you_mean(text, repository_names(database, app.app_id), "repository"),
            )
        case repositories:
            ids = [repository.repository_id for repository in repositories]
            raise _ambiguous(f"{len(ids)} repositories are {text!r}", "repository_ids", ids)


def resolve_link(database: Database, app_text: str, repository_text: str) -> Link:
    """Finds the link of an app and a repository. Raises NotFoundError, AmbiguousError."""
    app = resolve_app(database, app_text)
    repository = resolve_repository(database, app, repository_text)
    link = read_link(database, app.app_id, repository.repository_id)
    if link is None:
        name = repository.repository_name
        raise NotFoundError(
            f"App-repository link not found: app {app.app_name!r} is not linked to {name!r}",
            hint=_did_you_mean(name, repository_names(database, app.app_id), "repository"),
        )
    return link


def _ambiguous(sentence: str, key: str, ids: list[str]) -> AmbiguousError:
    return AmbiguousError(
        f"{sentence}: {', '.join(map(quote, ids))}",
        hint="give the id of the one you mean",
        details={key: ids},
    )


def _did_you_mean(text: str, names: Sequence[str], kind: str) -> str:
    from difflib import get_close_matches  # seldom needed, and slow to import

    by_folded = {_folded(name): name for name in names}
    typed = text.partition("://")[2].partition("/")[2] or text  # of a URL, the path
    near = get_close_matches(_folded(typed), by_folded, n=3, cutoff=0.5)
    if not near:
        return f"check the spelling, or give the {kind} id"
    return f"did you mean {' or '.join(quote(by_folded[name]) for name in near)}?"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
