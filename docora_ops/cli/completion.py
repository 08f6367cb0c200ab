"""Completion in bash, zsh and fish: `completion` prints the script, `complete_*` find values."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from docora_ops.actions.docora import Docora

COMPLETE_VARIABLE = "_DOCORA_OPS_COMPLETE"
"""If this variable is set, Typer answers the shell instead of running a command."""
_LIMIT = 50
"""The maximum number of values to offer."""


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"],
        typer.Argument(metavar="SHELL", help="The shell to complete in."),
    ],
) -> None:
    """Print the completion script for bash, zsh or fish.

    For bash 4.4 or newer, add `source <(docora-ops completion bash)` to ~/.bashrc. For zsh, add
    `source <(docora-ops completion zsh)` to ~/.zshrc, after compinit. For fish, add
    `docora-ops completion fish | source` to ~/.config/fish/config.fish.

    Completes commands, options, topics; apps and repositories, from Postgres; and ids
    of bulk operations, from Redis. Takes the settings from --env-file or the environment.
    """
    script = files("docora_ops.cli").joinpath(f"completion.{shell}")
    sys.stdout.write(script.read_text(encoding="utf-8"))


def complete_app(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the apps whose name or id begins with the typed text, names first."""
    from docora_ops.database.names import apps_by_prefix

    with _docora(typer_context) as docora:
        return _offer(apps_by_prefix(docora.database, incomplete, _LIMIT), incomplete)


def complete_repo(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the repositories whose name or id begins with the typed text.

    If the command line names apps, returns only repositories of these apps.
    """
    from docora_ops.actions.lookup import resolve_app
    from docora_ops.database.names import repositories_by_prefix

    app = typer_context.params.get("app") or ()
    with _docora(typer_context) as docora:
        names = [app] if isinstance(app, str) else app
        app_ids = [resolve_app(docora.database, name).app_id for name in names]
        repositories = repositories_by_prefix(docora.database, incomplete, _LIMIT, app_ids)
        return _offer(repositories, incomplete)


def complete_operation(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the operation ids that begin with the typed text, latest first."""
    from docora_ops.actions.bulk_operations import operations

    with _docora(typer_context) as docora:
        ids = [known.operation_id for known in operations(docora, limit=_LIMIT).rows]
    return [operation_id for operation_id in ids if operation_id.startswith(incomplete)]


def complete_app_or_operation(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns operation ids if the typed text begins with `bulk_`, otherwise apps."""
    is_operation = incomplete.startswith("bulk_")
    return (complete_operation if is_operation else complete_app)(typer_context, incomplete)


def complete_page(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the commands and the topics of `help` whose name begins with the typed text."""
    root: Any = typer_context.find_root().command
    folder = files("docora_ops").joinpath("help")
    topics = (file.name.removesuffix(".md") for file in folder.iterdir() if file.name.islower())
    return sorted(name for name in {*root.commands, *topics} if name.startswith(incomplete))


def _docora(typer_context: typer.Context) -> Docora:
    """Returns the Docora with timeouts of 1 s, so that Postgres soon ends abandoned completions."""
    from docora_ops.actions.docora import Docora
    from docora_ops.settings import load_settings

    parameters = typer_context.params
    env_file = parameters.get("env_file")
    # The shell does not expand ~ during completion.
    settings = load_settings(env_file and env_file.expanduser())
    return Docora(settings.hurried(1))


def _offer(names: Mapping[str, str], incomplete: str) -> list[str]:
    """Returns the names, or their ids if an id was typed or the name can't be typed.

    Spells the beginning as it was typed, even if the case differs: Typer drops other spellings.

    names: the names of apps or repositories by id.
    """
    from docora_ops.text import inert, mask

    def can_be_typed(text: str) -> bool:
        return text == inert(text) == mask(text) and bool(text.strip()) and not text.startswith("-")

    begun = len(incomplete)

    def is_begun(word: str) -> bool:
        return word[:begun].lower() == incomplete.lower()

    words = (name if is_begun(name) and can_be_typed(name) else id_ for id_, name in names.items())
    return [
        incomplete + word[begun:] if is_begun(word) else word
        for word in words
        if can_be_typed(word)
    ]
