"""Finds the values that a shell offers for APP, REPO, OPERATION_ID and paths.

`shell_completion` ends the process without a message on an exception, and when time has run out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from docora_ops.database import Database
    from docora_ops.database.names import Candidate
    from docora_ops.settings import Settings

_MOST = 50
"""Values that are offered at once."""


class Value(str):
    """A text to offer, even if its beginning was typed in another letter case."""

    __slots__ = ()

    def startswith(self, *_: object) -> bool:
        """Returns True: Typer drops values that do not begin with the typed text."""
        return True


class AnyFile(Value):
    """Stands for the files that the shell finds itself."""

    __slots__ = ()


def complete_app(typer_context: typer.Context, incomplete: str) -> list[str | tuple[str, str]]:
    """Returns the apps whose name begins with the typed text, or otherwise whose id does."""
    from docora_ops.database.names import apps_by_prefix

    with _database(typer_context) as database:
        return _offer(apps_by_prefix(database, incomplete, _MOST + 1))


def complete_app_or_operation(
    typer_context: typer.Context, incomplete: str
) -> list[str | tuple[str, str]]:
    """Returns the bulk operations and the apps that begin with the typed text."""
    if incomplete.startswith("bulk"):
        return [*complete_operation(typer_context, incomplete)]
    return complete_app(typer_context, incomplete)


def complete_repo(typer_context: typer.Context, incomplete: str) -> list[str | tuple[str, str]]:
    """Returns the repositories of the apps on the line, for `retry` with failed links first.

    Returns repositories of all apps if the line names none.
    """
    from docora_ops.actions.lookup import resolve_app
    from docora_ops.database.names import repositories_by_prefix

    app = typer_context.params.get("app") or ()
    with _database(typer_context) as database:
        names = [app] if isinstance(app, str) else app
        app_ids = [resolve_app(database, name).app_id for name in names]
        found = repositories_by_prefix(
            database,
            incomplete,
            _MOST + 1,
            app_ids or None,
            failed_first=typer_context.info_name == "retry",
        )
        return _offer(found)


def complete_operation(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the ids of the bulk operations that begin with the typed text, the latest first."""
    from docora_ops.queue import ProgressStore, connect

    found = ProgressStore(connect(_impatient_settings(typer_context))).read_all()
    ids = [each.operation_id for each in found if _can_be_typed(each.operation_id)]
    return [each for each in ids if each.startswith(incomplete)][:_MOST]


def complete_file() -> list[str]:
    """Leaves it to the shell to offer files."""
    return [AnyFile()]


def _offer(found: Sequence[Candidate]) -> list[str | tuple[str, str]]:
    """Returns the name of each candidate, or its id with the name as description.

    The id is for a name that several share, that was not typed, or that can't be typed.
    """
    from docora_ops.text import inert, mask

    chosen = [each for each in found if each.by_name] or found
    times = Counter(each.name.casefold() for each in chosen)
    offered: list[str | tuple[str, str]] = []
    for each in chosen[:_MOST]:
        if each.by_name and times[each.name.casefold()] == 1 and _can_be_typed(each.name):
            offered.append(Value(each.name))
        elif _can_be_typed(each.id):
            offered.append((Value(each.id), inert(mask(each.name))))
    return offered


def _can_be_typed(text: str) -> bool:
    """Tells whether a text can be shown and taken as an argument as it is."""
    from docora_ops.text import inert, mask

    return text == inert(text) == mask(text) and bool(text.strip()) and not text.startswith("-")


@contextmanager
def _database(typer_context: typer.Context) -> Iterator[Database]:
    from docora_ops.database import Database

    database = Database(_impatient_settings(typer_context))
    try:
        yield database
    finally:
        database.close()


def _impatient_settings(typer_context: typer.Context) -> Settings:
    """Returns the settings with short timeouts: no statement outlives the completion for long."""
    from docora_ops.cli.env_file import env_file_of
    from docora_ops.settings import load_settings

    env_file = env_file_of(typer_context)
    if env_file is not None:  # as typed: the shell has not expanded ~ and $HOME
        env_file = Path(os.path.expandvars(env_file)).expanduser()
    timeouts = ("connect_timeout", "statement_timeout", "lock_timeout")
    return load_settings(env_file).model_copy(update=dict.fromkeys(timeouts, 1))
