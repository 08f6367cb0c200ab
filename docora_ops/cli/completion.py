"""Completion in bash and zsh: `completion` prints the script, the rest finds the values."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from docora_ops.database import Database
    from docora_ops.database.names import Candidate
    from docora_ops.settings import Settings

COMPLETE_VARIABLE = "_DOCORA_OPS_COMPLETE"
"""Typer answers a shell instead of running a command if this variable is set."""
_LIMIT = 50
"""Values that are offered at once."""

# Both scripts ask as fish does: Typer's answer to the other shells is code, which they evaluate.
# Each line of the answer is a value, a tab and a description. The line that is asked about ends
# with an empty word in quotes, so that a blank within quotes does not end the last word.
_BASH = r"""_docora_ops() {
    local line=${COMP_LINE:0:COMP_POINT} quote=${COMP_WORDS[COMP_CWORD]:0:1} typed value
    [[ $quote == [\'\"] ]] || quote=
    # What readline keeps of the word: it replaces only what follows a colon or another break.
    typed=${line##*[[:space:]]} typed=${typed#--*=} typed=${typed%"$2"}
    [[ $quote || $2 == *[[:space:]]* ]] && typed=
    COMPREPLY=()
    while IFS=$'\t' read -r value _; do
        [[ $value && $value == "$typed"* ]] || continue
        value=${value#"$typed"}
        case $quote in
            '') COMPREPLY+=("$(printf %q "$value")") ;;
            *) [[ $value == *[\'\"\$\`\\!]* ]] || COMPREPLY+=("$value") ;;
        esac
    done < <(_TYPER_COMPLETE_ARGS="$line$quote''" _TYPER_COMPLETE_FISH_ACTION=get-args \
        _DOCORA_OPS_COMPLETE=complete_fish "$1" 2>/dev/null)
    [[ $3 == --env-file ]] && compopt -o default
}
complete -o nosort -F _docora_ops docora-ops
"""

_ZSH = r"""#compdef docora-ops
_docora_ops() {
    local line value help
    local -a values shown
    line="${(j: :)${(@qq)${(@Q)words[1,CURRENT-1]}}} ${(qq)${(Q)PREFIX}}"
    while IFS=$'\t' read -r value help; do
        [[ -n $value ]] || continue
        values+=("$value") shown+=("${(V)value}${help:+  -- ${(V)help}}")
    done < <(_TYPER_COMPLETE_ARGS="$line" _TYPER_COMPLETE_FISH_ACTION=get-args \
        _DOCORA_OPS_COMPLETE=complete_fish "${(Q)words[1]}" 2>/dev/null)
    compset -P '--*='
    compadd -l -V values -d shown -a values
    [[ $words[CURRENT-1] == --env-file && $PREFIX != *[\$\`]* ]] && _files
}
[[ $funcstack[1] == _docora-ops ]] && _docora_ops "$@" || compdef _docora_ops docora-ops
"""


class Shell(StrEnum):
    """A shell with completion."""

    BASH = "bash"
    ZSH = "zsh"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="The shell to complete in.")],
) -> None:
    """Print the completion script for bash or zsh.

    Add `source <(docora-ops completion bash)` to ~/.bashrc (bash 4.4 or newer), or the same with
    zsh to ~/.zshrc, after compinit. Completes names of apps and repositories from Postgres, and
    ids of operations from Redis, as set in the environment.
    """
    sys.stdout.write(_BASH if shell is Shell.BASH else _ZSH)


def complete_app(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the apps whose name begins with the typed text, or otherwise whose id does."""
    from docora_ops.database.names import apps_by_prefix

    with _database(typer_context) as database:
        return _offer(apps_by_prefix(database, incomplete, _LIMIT))


def complete_app_or_operation(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the bulk operations or, for any other text, the apps that begin with it."""
    complete = complete_operation if incomplete.startswith("bulk") else complete_app
    return complete(typer_context, incomplete)


def complete_repo(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the repositories of the apps on the line, for `retry` with failed links first.

    Returns repositories of all apps if the line names none.
    """
    from docora_ops.actions.lookup import resolve_app
    from docora_ops.database.names import repositories_by_prefix

    app = typer_context.params.get("app") or ()
    is_retry = typer_context.info_name == "retry"
    with _database(typer_context) as database:
        names = [app] if isinstance(app, str) else app
        app_ids = [resolve_app(database, name).app_id for name in names] or None
        return _offer(
            repositories_by_prefix(database, incomplete, _LIMIT, app_ids, failed_first=is_retry)
        )


def complete_operation(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the ids of bulk operations, the latest first. Typer drops those that do not fit."""
    from docora_ops.queue import ProgressStore, connect

    found = ProgressStore(connect(_settings(typer_context))).read_all()
    return [each.operation_id for each in found if _can_be_typed(each.operation_id)]


def _offer(found: Sequence[Candidate]) -> list[str]:
    """Returns the name of each candidate, or its id if that was typed or the name can't be."""
    names = [(each, each.by_name and _can_be_typed(each.name)) for each in found]
    offered = [each.name if by_name else each.id for each, by_name in names]
    return [each for each in offered if _can_be_typed(each)]


def _can_be_typed(text: str) -> bool:
    """Tells whether a text can be shown and taken as an argument as it is."""
    from docora_ops.text import inert, mask

    return text == inert(text) == mask(text) and bool(text.strip()) and not text.startswith("-")


@contextmanager
def _database(typer_context: typer.Context) -> Iterator[Database]:
    from docora_ops.database import Database

    database = Database(_settings(typer_context))
    try:
        yield database
    finally:
        database.close()


def _settings(typer_context: typer.Context) -> Settings:
    """Returns the settings with short timeouts: no statement outlives the completion for long."""
    from docora_ops.settings import load_settings

    env_file = typer_context.params.get("env_file")
    timeouts = ("connect_timeout", "statement_timeout", "lock_timeout")
    settings = load_settings(env_file and env_file.expanduser())  # the shell has not expanded ~
    return settings.model_copy(update=dict.fromkeys(timeouts, 1))
