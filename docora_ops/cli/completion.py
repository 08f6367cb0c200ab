"""The values that Typer's completion offers in a shell."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from docora_ops.actions.docora import Docora

COMPLETE_VARIABLE = "_DOCORA_OPS_COMPLETE"
"""If this variable is set, Typer answers the shell instead of running a command."""
_LIMIT = 50
"""The maximum number of values to offer."""
# Typer's scripts quote nothing in bash, and in zsh evaluate text with backslashes or brackets.
_SAFE = re.compile(r"\w[\w .,+/-]*")


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

    env_file = typer_context.params.get("env_file")
    # The shell does not expand ~ during completion.
    return Docora(load_settings(env_file and env_file.expanduser()).hurried(1))


def _offer(names: Mapping[str, str], incomplete: str) -> list[str]:
    """Returns the names, or their ids if an id was typed or a name is not safe in a shell.

    Spells the beginning as it was typed, even if the case differs: Typer drops other spellings.

    names: the names of apps or repositories by id.
    """
    begun = len(incomplete)

    def is_offered(word: str) -> bool:
        return word[:begun].lower() == incomplete.lower() and bool(_SAFE.fullmatch(word))

    words = (name if is_offered(name) else id_ for id_, name in names.items())
    return [_quoted_for_bash(incomplete + word[begun:]) for word in words if is_offered(word)]


def _quoted_for_bash(word: str) -> str:
    """Escapes blanks in bash, which reads the word as it stands, unless a quote is open."""
    typed = os.environ.get("COMP_WORDS", "").split("\n")[-1]
    is_bash = os.environ.get(COMPLETE_VARIABLE) == "complete_bash"
    return word.replace(" ", "\\ ") if is_bash and not typed.startswith(("'", '"')) else word
