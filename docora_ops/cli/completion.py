"""Completion in bash, zsh and fish: `completion` prints the script, the rest finds the values."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from docora_ops.database import Database
    from docora_ops.database.names import Candidate

COMPLETE_VARIABLE = "_DOCORA_OPS_COMPLETE"
"""Typer answers a shell instead of running a command if this variable is set."""
_LIMIT = 50
"""Values that are offered at once."""


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"],
        typer.Argument(metavar="SHELL", help="The shell to complete in."),
    ],
) -> None:
    """Print the completion script for bash, zsh or fish.

    Add `source <(docora-ops completion bash)` to ~/.bashrc (bash 4.4 or newer), or the same with
    zsh to ~/.zshrc, after compinit, or `docora-ops completion fish | source` to
    ~/.config/fish/config.fish. Completes names of targets, and of apps and repositories from
    Postgres, as set in the environment.
    """
    script = files("docora_ops.cli").joinpath(f"completion.{shell}")
    sys.stdout.write(script.read_text(encoding="utf-8"))


def complete_app(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the apps whose name begins with the typed text, then those whose id does."""
    from docora_ops.database.names import apps_by_prefix

    with closing(_database(typer_context)) as database:
        return _offer(apps_by_prefix(database, incomplete, _LIMIT))


def complete_repo(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the repositories of the apps on the line, or of all apps if it names none."""
    from docora_ops.actions.lookup import resolve_app
    from docora_ops.database.names import repositories_by_prefix

    app = typer_context.params.get("app") or ()
    with closing(_database(typer_context)) as database:
        names = [app] if isinstance(app, str) else app
        app_ids = [resolve_app(database, name).app_id for name in names] or None
        return _offer(repositories_by_prefix(database, incomplete, _LIMIT, app_ids))


def complete_target(incomplete: str) -> list[str]:
    """Returns the targets whose name begins with the typed text."""
    from docora_ops.targets import target_files

    return [name for name in target_files() if name.startswith(incomplete)]


def _database(typer_context: typer.Context) -> Database:
    """Connects with short timeouts: no statement outlives the completion for long."""
    from docora_ops.database import Database
    from docora_ops.settings import load_settings
    from docora_ops.targets import settings_source

    given = typer_context.params
    env_file, target = settings_source(given.get("env_file"), given.get("target"))
    timeouts = ("connect_timeout", "statement_timeout", "lock_timeout")
    # The shell has not expanded ~.
    settings = load_settings(env_file and env_file.expanduser(), target=target)
    return Database(settings.model_copy(update=dict.fromkeys(timeouts, 1)))


def _offer(found: Sequence[Candidate]) -> list[str]:
    """Returns each candidate's name, or its id if the id was typed or the name can't be typed."""
    from docora_ops.text import inert, mask

    def can_be_typed(text: str) -> bool:
        return text == inert(text) == mask(text) and bool(text.strip()) and not text.startswith("-")

    named = (each.name if each.by_name and can_be_typed(each.name) else each.id for each in found)
    return [each for each in named if can_be_typed(each)]
