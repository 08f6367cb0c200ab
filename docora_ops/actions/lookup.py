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


def resolve_repository(database: Database, apps: Sequence[App], text: str) -> Repository:
    """Finds the repository with this id, `owner/name` or GitHub URL, best one that an app has.

    `apps`: none stand for every app. Raises NotFoundError with similar names of the apps'
    repositories, AmbiguousError with the ids of the candidates.
    """
    return _find_repository(database, apps, text)[0]


def resolve_linked_repository(database: Database, apps: Sequence[App], text: str) -> Repository:
    """Finds a repository that one of the apps, or any app if there are none, is linked to.

    Raises NotFoundError, AmbiguousError.
    """
    repository, is_linked = _find_repository(database, apps, text)
    if not is_linked:
        raise _not_linked(database, apps, repository)
    return repository


def resolve_link(database: Database, app_text: str, repository_text: str) -> Link:
    """Finds the link of an app and a repository. Raises NotFoundError, AmbiguousError."""
    app = resolve_app(database, app_text)
    repository = resolve_repository(database, [app], repository_text)
    link = read_link(database, app.app_id, repository.repository_id)
    if link is None:
        raise _not_linked(database, [app], repository)
    return link


def _find_repository(database: Database, apps: Sequence[App], text: str) -> tuple[Repository, bool]:
    """Returns the repository, and whether one of the apps is linked to it."""
    app_ids = [app.app_id for app in apps]
    match find_repositories(database, app_ids, text):
        case [found]:
            return found
        case []:
            raise NotFoundError(
                f"no repository {mask(text)!r}{_of(apps)}",
                hint=_did_you_mean(text, repository_names(database, app_ids), "repository"),
            )
        case several:
            ids = [repository.repository_id for repository, _ in several]
            raise _ambiguous(f"{len(ids)} repositories are {text!r}", "repository_ids", ids)


def _not_linked(database: Database, apps: Sequence[App], repository: Repository) -> NotFoundError:
    name = repository.repository_name
    match [repr(app.app_name) for app in apps]:
        case []:
            none = "no app is"
        case [app]:
            none = f"app {app} is not"
        case several:
            none = f"neither {' nor '.join(several)} is"
    names = repository_names(database, [app.app_id for app in apps])
    return NotFoundError(
        f"App-repository link not found: {none} linked to {name!r}",
        hint=_did_you_mean(name, names, "repository"),
    )


def _of(apps: Sequence[App]) -> str:
    """Returns the apps that were named, for a sentence."""
    if not apps:
        return ""
    return f" for app {' or '.join(repr(app.app_name) for app in apps)}"


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
