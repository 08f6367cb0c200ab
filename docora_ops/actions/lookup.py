"""Finds the apps, repositories and links that a person names."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from shlex import quote

from docora_ops.actions.docora import Docora
from docora_ops.database import links, names
from docora_ops.database.connection import Database
from docora_ops.errors import AmbiguousError, NotFoundError
from docora_ops.links import App, Link, LinkFilter, LinkStatus, Repository
from docora_ops.text import inert, mask

_MOST_CANDIDATES = 10  # apps to list if a prefix is ambiguous
_MOST_COMPARED = 5000  # names that are compared with a mistyped one


def choose_links(
    docora: Docora,
    *,
    apps: Sequence[str] = (),
    exclude_apps: Sequence[str] = (),
    repositories: Sequence[str] = (),
    statuses: Sequence[LinkStatus] = (),
    errors: Sequence[str] = (),
    exclude_errors: Sequence[str] = (),
    circuit: str | None = None,
    overdue: bool = False,
) -> LinkFilter:
    """Returns the filter for the links that the options of a command select.

    apps, exclude_apps: ids or names.
    repositories: ids, `owner/name` or URLs; `*` in `owner/name` matches any text.
    errors, exclude_errors: as in LinkFilter.
    circuit: `open` or `closed`; None for both.

    Raises NotFoundError, AmbiguousError, PostgresError.
    """
    database = docora.database
    chosen = [resolve_app(database, text) for text in apps]
    excluded = [resolve_app(database, text) for text in exclude_apps]
    app_ids = [app.app_id for app in chosen]
    patterns = [text for text in repositories if "*" in text]
    for pattern in patterns:
        if not names.has_repository_like(database, app_ids, pattern):
            sentence = f"no repository matches {mask(pattern)!r}{_for(chosen)}"
            raise _no_repository(sentence, database, chosen, pattern)
    named = [resolve_repository(database, chosen, text) for text in repositories if "*" not in text]
    overdue_before = None
    if overdue:
        age = timedelta(seconds=docora.settings.overdue_after_seconds)
        overdue_before = links.now(database) - age
    return LinkFilter(
        app_ids=app_ids,
        exclude_app_ids=[app.app_id for app in excluded],
        repository_ids=[repository.repository_id for repository in named],
        repository_names=patterns,
        statuses=statuses,
        errors=errors,
        exclude_errors=exclude_errors,
        open_circuit=None if circuit is None else circuit == "open",
        overdue_before=overdue_before,
    )


def resolve_app(database: Database, text: str) -> App:
    """Finds the app with this id or name (case-insensitive), or an unambiguous prefix of either.

    Raises NotFoundError with similar names, AmbiguousError with the candidates.
    """
    candidates = names.find_apps(database, text)
    by = "are named"
    if not candidates:
        prefixed = list(names.apps_by_prefix(database, text, _MOST_CANDIDATES + 1))
        candidates = [app for id_ in prefixed for app in names.find_apps(database, id_)]
        by = "have names or ids that begin with"
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        listed = ", ".join(f"{mask(app.app_name)} ({app.app_id})" for app in candidates)
        count = str(len(candidates))
        if len(candidates) > _MOST_CANDIDATES:
            count = f"more than {_MOST_CANDIDATES}"
        raise AmbiguousError(
            f"{count} apps {by} {mask(text)!r}: {listed}",
            hint="give the id of the one you mean",
            details={"app_ids": [app.app_id for app in candidates]},
        )
    hint = _did_you_mean(text, names.apps_by_prefix(database, "", _MOST_COMPARED))
    if names.find_repositories(database, [], text):
        hint = "it is a repository: the app comes first, or give the repository with --repo"
    raise NotFoundError(f"no app {mask(text)!r}", hint=hint)


def resolve_repository(database: Database, apps: Sequence[App], text: str) -> Repository:
    """Finds the linked repository with this id, `owner/name` or GitHub URL.

    apps: search only repositories linked to these apps; empty means all.

    Raises NotFoundError with similar names, AmbiguousError with the ids of the candidates.
    """
    match names.find_repositories(database, [app.app_id for app in apps], text):
        case []:
            raise _no_repository(f"no repository {mask(text)!r}{_for(apps)}", database, apps, text)
        case [(repository, is_linked)]:
            if is_linked:
                return repository
            name = repository.repository_name
            to = _for(apps, "to") or " to any app"
            sentence = f"App-repository link not found: {name!r} is not linked{to}"
            raise _no_repository(sentence, database, apps, name)
        case several:
            ids = [repository.repository_id for repository, _ in several]
            raise AmbiguousError(
                f"{len(ids)} repositories are {mask(text)!r}: {', '.join(map(quote, ids))}",
                hint="give the id of the one you mean",
                details={"repository_ids": ids},
            )


def resolve_link(database: Database, app_text: str, repository_text: str) -> Link:
    """Finds the link of an app and a repository. Raises NotFoundError, AmbiguousError."""
    named = links.find_links(database, app_text, repository_text)
    if len(named) == 1:
        return named[0]
    with database.transaction():
        app = resolve_app(database, app_text)
        repository = resolve_repository(database, [app], repository_text)
        link = links.read_link(database, app.app_id, repository.repository_id)
    if link is None:
        raise NotFoundError(
            f"App-repository link not found: {app.app_id!r} and {repository.repository_id!r}",
            hint="it was removed a moment ago",
        )
    return link


def _for(apps: Sequence[App], preposition: str = "for") -> str:
    named = " or ".join(repr(app.app_name) for app in apps)
    return f" {preposition} app {named}" if apps else ""


def _no_repository(
    sentence: str, database: Database, apps: Sequence[App], name: str
) -> NotFoundError:
    app_ids = [app.app_id for app in apps]
    if names.has_repository_like(database, app_ids, f"{name}/*"):
        return NotFoundError(sentence, hint=f"for all of {name}: --repo {quote(f'{name}/*')}")
    near = names.repositories_by_prefix(database, "", _MOST_COMPARED, app_ids)
    typed = name.partition("://")[2].partition("/")[2] or name  # only the path of a URL
    return NotFoundError(sentence, hint=_did_you_mean(typed, near))


def _did_you_mean(text: str, known: Mapping[str, str]) -> str:
    """Returns a hint with the names most similar to the text, quoted for the shell.

    known: names by id. If a name can't be printed unchanged, its id is shown instead.
    """
    from difflib import get_close_matches  # seldom needed, and slow to import

    words = {
        name.casefold(): quote(name if inert(mask(name)) == name else id_)
        for id_, name in known.items()
    }
    near = get_close_matches(text.casefold(), words, 3, 0.5)
    if near:
        return f"did you mean {' or '.join(words[name] for name in near)}?"
    return "check the spelling, or give the id; docora-ops links lists all links"
