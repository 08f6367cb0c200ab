"""Finds the apps, the repositories and the links that a person names."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote

from docora_ops.actions.docora import Docora
from docora_ops.database import Database
from docora_ops.database.link_rows import read_link
from docora_ops.database.names import (
    find_apps,
    find_apps_by_prefix,
    find_repositories,
    has_repository_like,
    some_apps,
    some_repositories,
)
from docora_ops.errors import AmbiguousError, NotFoundError
from docora_ops.links import App, Link, LinkFilter, LinkStatus, Repository
from docora_ops.text import inert, mask

_MOST_CANDIDATES = 10
"""Apps that are listed if a prefix fits several."""
_MOST_SUGGESTIONS = 3


@dataclass(frozen=True)
class LinkChoice:
    """The links that a person means: one value of each field must fit, an empty field fits all.

    apps, exclude_apps: ids or names, as a person types them.
    repositories: ids, `owner/name` or URLs; `owner/name` may have `*` for anything.
    errors, exclude_errors: texts that the last error contains (case-insensitive). One with `*` for
    anything must match the whole error.
    no_error: also links without an error.
    open_circuit: whether the circuit of the repository must be open or closed; None: either.
    """

    apps: Sequence[str] = ()
    exclude_apps: Sequence[str] = ()
    repositories: Sequence[str] = ()
    statuses: Sequence[LinkStatus] = ()
    errors: Sequence[str] = ()
    exclude_errors: Sequence[str] = ()
    no_error: bool = False
    open_circuit: bool | None = None


@dataclass(frozen=True)
class ChosenLinks:
    """The links that were chosen. `recorded`: the choice for an audit entry, apps in full."""

    which: LinkFilter
    recorded: dict[str, object] = field(default_factory=dict)


def choose_links(docora: Docora, choice: LinkChoice, *, by_prefix: bool = True) -> ChosenLinks:
    """Finds the apps and repositories of a choice. Raises NotFoundError, AmbiguousError.

    `by_prefix`: an app may be named by the beginning of its id or name.
    """
    database = docora.database
    found = [resolve_app(database, text, by_prefix=by_prefix) for text in choice.apps]
    excluded = [resolve_app(database, text, by_prefix=by_prefix) for text in choice.exclude_apps]
    patterns = [text for text in choice.repositories if "*" in text]
    for pattern in patterns:
        require_repositories(database, found, pattern)
    linked = [
        resolve_linked_repository(database, found, text)
        for text in choice.repositories
        if text not in patterns
    ]
    which = LinkFilter(
        app_ids=[app.app_id for app in found],
        exclude_app_ids=[app.app_id for app in excluded],
        repository_ids=[repository.repository_id for repository in linked],
        repository_names=patterns,
        statuses=choice.statuses,
        errors=choice.errors,
        exclude_errors=choice.exclude_errors,
        no_error=choice.no_error,
        open_circuit=choice.open_circuit,
    )
    recorded = {
        "app": _in_full(choice.apps, found),
        "exclude_app": _in_full(choice.exclude_apps, excluded),
        "repo": list(choice.repositories),
        "error": list(choice.errors),
        "exclude_error": list(choice.exclude_errors),
        "no_error": choice.no_error,
        "circuit": {None: None, True: "open", False: "closed"}[choice.open_circuit],
    }
    return ChosenLinks(which, recorded)


def _in_full(typed: Sequence[str], apps: Sequence[App]) -> list[str]:
    return [
        text if text == app.app_id else app.app_name for text, app in zip(typed, apps, strict=True)
    ]


def resolve_app(database: Database, text: str, *, by_prefix: bool = True) -> App:
    """Finds the app with this id or name, otherwise the only one whose id or name begins so.

    Upper and lower case are the same, except in ids. Without `by_prefix`, an app that only begins
    so is a suggestion. Raises NotFoundError with similar names, AmbiguousError with the names and
    ids of the candidates.
    """
    match find_apps(database, text):
        case [app]:
            return app
        case []:
            return _resolve_prefix(database, text, by_prefix=by_prefix)
        case apps:
            raise _ambiguous_app(f"{len(apps)} apps are named {mask(text)!r}", apps)


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


def require_repositories(database: Database, apps: Sequence[App], pattern: str) -> None:
    """Raises NotFoundError unless one of the apps, or any app, has a repository of such a name."""
    if not has_repository_like(database, [app.app_id for app in apps], pattern):
        sentence = f"no repository matches {mask(pattern)!r}{_of(apps)}"
        raise _no_repository(sentence, database, apps, pattern)


def resolve_link(database: Database, app_text: str, repository_text: str) -> Link:
    """Finds the link of an app and a repository. Raises NotFoundError, AmbiguousError."""
    try:
        app = resolve_app(database, app_text)
    except NotFoundError:
        if _are_swapped(database, app_text, repository_text):
            raise NotFoundError(
                f"no app {mask(app_text)!r}: APP comes first, then REPO",
                hint=f"swap the two: {mask(quote(repository_text))} {mask(quote(app_text))}",
            ) from None
        raise
    repository = resolve_repository(database, [app], repository_text)
    link = read_link(database, app.app_id, repository.repository_id)
    if link is None:
        raise _not_linked(database, [app], repository)
    return link


def _find_repository(database: Database, apps: Sequence[App], text: str) -> tuple[Repository, bool]:
    """Returns the repository, and whether one of the apps is linked to it."""
    match find_repositories(database, [app.app_id for app in apps], text):
        case [found]:
            return found
        case []:
            sentence = f"no repository {mask(text)!r}{_of(apps)}"
            raise _no_repository(sentence, database, apps, text)
        case several:
            ids = [repository.repository_id for repository, _ in several]
            raise AmbiguousError(
                f"{len(ids)} repositories are {mask(text)!r}: {', '.join(map(quote, ids))}",
                hint="give the id of the one you mean",
                details={"repository_ids": ids},
            )


def _not_linked(database: Database, apps: Sequence[App], repository: Repository) -> NotFoundError:
    name = repository.repository_name
    match [repr(app.app_name) for app in apps]:
        case []:
            none = "no app is"
        case [app]:
            none = f"app {app} is not"
        case several:
            none = f"neither {' nor '.join(several)} is"
    sentence = f"App-repository link not found: {none} linked to {name!r}"
    return _no_repository(sentence, database, apps, name)


def _of(apps: Sequence[App]) -> str:
    """Returns the apps that were named, for a sentence."""
    if not apps:
        return ""
    return f" for app {' or '.join(repr(app.app_name) for app in apps)}"


def _resolve_prefix(database: Database, text: str, *, by_prefix: bool) -> App:
    apps = find_apps_by_prefix(database, text, _MOST_CANDIDATES + 1)
    if len(apps) == 1:
        if by_prefix:
            return apps[0]
        raise NotFoundError(
            f"no app {mask(text)!r}: a change of many links needs the whole name or a question",
            hint=_did_you_mean([_word(apps[0].app_name, apps[0].app_id)]),
        )
    if apps:
        is_cut = len(apps) > _MOST_CANDIDATES
        count = f"more than {_MOST_CANDIDATES}" if is_cut else str(len(apps))
        sentence = f"the names or ids of {count} apps begin with {mask(text)!r}"
        raise _ambiguous_app(sentence, apps[:_MOST_CANDIDATES])
    words = {app.app_name: _word(app.app_name, app.app_id) for app in some_apps(database)}
    near = _nearest(text, words)
    raise NotFoundError(
        f"no app {mask(text)!r}",
        hint=_did_you_mean(near) if near else "check the spelling, or give the app id",
    )


def _ambiguous_app(sentence: str, apps: Sequence[App]) -> AmbiguousError:
    ids = [app.app_id for app in apps]
    named = ", ".join(f"{mask(app.app_name)} ({quote(app.app_id)})" for app in apps)
    return AmbiguousError(
        f"{sentence}: {named}",
        hint="give the id of the one you mean",
        details={"app_ids": ids},
    )


def _are_swapped(database: Database, app_text: str, repository_text: str) -> bool:
    """Tells whether a text that is no app is a repository, or the other text is an app."""
    if find_repositories(database, [], app_text) or find_apps(database, repository_text):
        return True
    return "/" in app_text and bool(find_apps_by_prefix(database, repository_text, 1))


def _no_repository(
    sentence: str, database: Database, apps: Sequence[App], name: str
) -> NotFoundError:
    """Returns the error that suggests the apps' repositories whose names are similar to `name`."""
    words = {
        repository.repository_name: _word(repository.repository_name, repository.repository_id)
        for repository in some_repositories(database, [app.app_id for app in apps])
    }
    near = _nearest(name, words)
    return NotFoundError(
        sentence,
        hint=_did_you_mean(near) if near else "check the spelling, or give the repository id",
    )


def _word(name: str, identifier: str) -> str:
    """Returns the name, or the id if the name is not shown as it is, so that it can be pasted."""
    return name if inert(mask(name)) == name else identifier


def _did_you_mean(words: Sequence[str]) -> str:
    """Returns a hint with the words, quoted for the shell."""
    return f"did you mean {' or '.join(map(quote, words))}?"


def _nearest(text: str, words: Mapping[str, str]) -> list[str]:
    """Returns the words of the names that are most similar to the text."""
    from difflib import get_close_matches  # seldom needed, and slow to import

    by_folded = {_folded(name): word for name, word in words.items()}
    typed = text.partition("://")[2].partition("/")[2] or text  # of a URL, the path
    for cutoff in (0.8, 0.5):  # a near miss is not followed by names that are hardly similar
        if near := get_close_matches(_folded(typed), by_folded, _MOST_SUGGESTIONS, cutoff):
            return [by_folded[name] for name in near]
    return []


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
