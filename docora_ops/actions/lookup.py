"""Finds the apps, repositories and links that a person names."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote

from docora_ops.actions.docora import Docora
from docora_ops.actions.freshness import read_overdue_before
from docora_ops.database import Database
from docora_ops.database.link_reports import read_now
from docora_ops.database.link_rows import read_link
from docora_ops.database.names import (
    apps_by_prefix,
    find_apps,
    find_repositories,
    has_repository_like,
    repositories_by_prefix,
)
from docora_ops.errors import AmbiguousError, NotFoundError, UsageError, past_moment
from docora_ops.links import App, Link, LinkFilter, LinkStatus, Repository
from docora_ops.text import TimeOfDay, When, inert, mask, moment, moment_of

_MOST_CANDIDATES = 10
"""Apps to list if a prefix is ambiguous."""
_MOST_COMPARED = 5000
"""Names that are compared with a mistyped one."""


@dataclass(frozen=True)
class LinkChoice:
    """A choice of links. A link must match one value of each field; an empty field matches all.

    Links that match a value of `exclude_apps` or `exclude_errors` are left out.

    apps, exclude_apps: ids or names, as a person types them.
    repositories: ids, `owner/name` or URLs; `*` in `owner/name` matches any text.
    errors, exclude_errors: texts that the last error contains (case-insensitive). A text with a `*`
        must match the whole error, or all of the error except the name of the sent file.
    no_error: also match links without an error.
    open_circuit: True matches links whose repository has an open circuit, False all other links;
        None matches all links.
    last_scan_before: the last good scan was before this time, or is older than this age. Also
        matches links that were never scanned.
    last_scan_after: the last good scan was at this time or later, or is at most this old.
        Both ages count back from now, by the clock of Postgres.
    overdue: only overdue links.
    """

    apps: Sequence[str] = ()
    exclude_apps: Sequence[str] = ()
    repositories: Sequence[str] = ()
    statuses: Sequence[LinkStatus] = ()
    errors: Sequence[str] = ()
    exclude_errors: Sequence[str] = ()
    no_error: bool = False
    open_circuit: bool | None = None
    last_scan_before: When | None = None
    last_scan_after: When | None = None
    overdue: bool = False


def choose_links(
    docora: Docora, choice: LinkChoice, *, by_prefix: bool = True, held: Collection[str] = ()
) -> tuple[LinkFilter, dict[str, object]]:
    """Returns the filter for a choice, and the choice as an audit entry records it.

    by_prefix: allow unambiguous prefixes of app ids and names.
    held: ids of apps to leave out.

    Raises NotFoundError, AmbiguousError; UsageError if no past scan can match both
    `last_scan_before` and `last_scan_after`.
    """
    database = docora.database
    chosen = [resolve_app(database, text, by_prefix=by_prefix) for text in choice.apps]
    excluded = [resolve_app(database, text, by_prefix=by_prefix) for text in choice.exclude_apps]
    patterns = [text for text in choice.repositories if "*" in text]
    for pattern in patterns:
        if not has_repository_like(database, [app.app_id for app in chosen], pattern):
            sentence = f"no repository matches {mask(pattern)!r}{_for(chosen)}"
            raise _no_repository(sentence, database, chosen, pattern)
    names = [text for text in choice.repositories if "*" not in text]
    bounds = (choice.last_scan_after, choice.last_scan_before)
    after, before = period(database, *bounds, ("--last-scan-after", "--last-scan-before"))
    linked = [resolve_repository(database, chosen, text) for text in names]
    which = LinkFilter(
        app_ids=[app.app_id for app in chosen],
        exclude_app_ids=[*(app.app_id for app in excluded), *held],
        repository_ids=[repository.repository_id for repository in linked],
        repository_names=patterns,
        statuses=choice.statuses,
        errors=choice.errors,
        exclude_errors=choice.exclude_errors,
        no_error=choice.no_error,
        open_circuit=choice.open_circuit,
        last_scan_before=before,
        last_scan_after=after,
        overdue_before=read_overdue_before(docora, held) if choice.overdue else None,
    )
    recorded = {
        "app": [app.app_name for app in chosen],
        "exclude_app": [app.app_name for app in excluded],
        "repo": list(choice.repositories),
        "error": list(choice.errors),
        "exclude_error": list(choice.exclude_errors),
        "no_error": choice.no_error,
        # Times instead of ages, so that the command can be repeated later.
        "last_scan_before": moment(before),
        "last_scan_after": moment(after),
        "circuit": {None: None, True: "open", False: "closed"}[choice.open_circuit],
    }
    return which, recorded


def period(
    database: Database,
    since: When | None,
    until: When | None,
    options: tuple[str, str] = ("--since", "--until"),
) -> tuple[datetime | None, datetime | None]:
    """Returns the start and the end of a typed period, by Postgres's clock.

    since: the start; None means no bound. A time of day means its latest occurrence before `until`
        and before now.
    until: the end, which is not part of the period; None means no bound.
    options: the names of the two options, for an error message.

    Raises UsageError if no past moment is in the period, because an empty list would sound like an
    all-clear.
    """
    if since is None and until is None:
        return None, None
    now = read_now(database)
    end = None if until is None else moment_of(until, now)
    # `--since 22:00 --until 06:00` is last night, even at 23:00.
    latest = min(end, now) if end and isinstance(since, TimeOfDay) else now
    first = None if since is None else past_moment(since, latest, "Postgres", options[0])
    if first and end and end <= first:
        raise UsageError(
            f"{options[0]} {moment(first)} is not before {options[1]} {moment(end)}",
            hint=f"{options[0]} takes the earlier moment, or the longer age",
        )
    return first, end


def resolve_app(database: Database, text: str, *, by_prefix: bool = True) -> App:
    """Finds the app with this id or name (case-insensitive), or an unambiguous prefix of either.

    Raises NotFoundError with similar names, AmbiguousError with the candidates.

    by_prefix: if False, raises NotFoundError for a prefix, and only suggests the app.
    """
    named = find_apps(database, text)
    candidates: Mapping[str, str] = {}
    if not named and text.strip():
        candidates = apps_by_prefix(database, text, _MOST_CANDIDATES + 1)
    prefixed = [App(*candidate) for candidate in candidates.items()]
    if len(named) == 1 or (len(prefixed) == 1 and by_prefix):
        return (named or prefixed)[0]
    if len(prefixed) == 1:
        raise NotFoundError(
            f"no app is named {mask(text)!r}: a prefix is accepted only if the command asks for "
            "confirmation",
            hint=_did_you_mean(prefixed[0].app_name, candidates),
        )
    if several := named or prefixed[:_MOST_CANDIDATES]:
        listed = ", ".join(f"{mask(app.app_name)} ({quote(app.app_id)})" for app in several)
        many = f"more than {_MOST_CANDIDATES}" if prefixed[_MOST_CANDIDATES:] else len(several)
        which = f"{many} apps are named" if named else f"the names or ids of {many} apps begin with"
        raise AmbiguousError(
            f"{which} {mask(text)!r}: {listed}",
            hint="give the id of the one you mean",
            details={"app_ids": [app.app_id for app in several]},
        )
    hint = _did_you_mean(text, apps_by_prefix(database, "", _MOST_COMPARED))
    if find_repositories(database, [], text):
        hint = "it is a repository: the app comes first, or give the repository with --repo"
    raise NotFoundError(f"no app {mask(text)!r}", hint=hint)


def resolve_repository(database: Database, apps: Sequence[App], text: str) -> Repository:
    """Finds the linked repository with this id, `owner/name` or GitHub URL.

    Raises NotFoundError with similar names, AmbiguousError with the ids of the candidates.

    apps: search only repositories linked to these apps; empty means all.
    """
    match find_repositories(database, [app.app_id for app in apps], text):
        case []:
            raise _no_repository(f"no repository {mask(text)!r}{_for(apps)}", database, apps, text)
        case [(repository, is_linked)]:
            if is_linked:
                return repository
            name = repository.repository_name
            to = _for(apps, "to") or " to any app"
            sentence = f"App-repository link not found: {name!r} is not linked{to}"
            if len(apps) == 1:
                words = f"docora-ops links --app {quote(apps[0].app_id)}"
                raise NotFoundError(sentence, hint=f"{words} lists the repositories that are")
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
    app = resolve_app(database, app_text)
    repository = resolve_repository(database, [app], repository_text)
    if link := read_link(database, app.app_id, repository.repository_id):
        return link
    raise gone(app.app_id, repository.repository_id)


def gone(app_id: str, repository_id: str) -> NotFoundError:
    """Returns the error for a link that was removed a moment ago."""
    return NotFoundError(
        f"App-repository link not found: {app_id!r} and {repository_id!r}",
        hint="it was removed a moment ago",
    )


def _for(apps: Sequence[App], preposition: str = "for") -> str:
    named = " or ".join(repr(app.app_name) for app in apps)
    return f" {preposition} app {named}" if apps else ""


def _no_repository(
    sentence: str, database: Database, apps: Sequence[App], name: str
) -> NotFoundError:
    names = repositories_by_prefix(database, "", _MOST_COMPARED, [app.app_id for app in apps])
    typed = name.partition("://")[2].partition("/")[2] or name  # only the path of a URL
    return NotFoundError(sentence, hint=_did_you_mean(typed, names))


def _did_you_mean(text: str, names: Mapping[str, str]) -> str:
    """Returns a hint with the names most similar to the text, quoted for the shell.

    names: names by id. If a name can't be printed unchanged, its id is shown instead.
    """
    from difflib import get_close_matches  # seldom needed, and slow to import

    words = {
        name.casefold(): quote(name if inert(mask(name)) == name else id_)
        for id_, name in names.items()
    }
    near: list[str] = []
    for cutoff in (0.8, 0.5):  # less similar names only if there is no near miss
        near = near or get_close_matches(text.casefold(), words, 3, cutoff)
    if near:
        return f"did you mean {' or '.join(words[name] for name in near)}?"
    return "check the spelling, or give the id; docora-ops apps and docora-ops links list both"
