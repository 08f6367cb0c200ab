"""The env file: `--env-file` before or after the command, or `DOCORA_OPS_ENV_FILE`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from docora_ops.cli.completers import complete_file
from docora_ops.errors import UsageError

_KEY = "docora_ops.env_file"
"""The key of the path in the `meta` of a Typer context, which all contexts of a call share."""

T = TypeVar("T")


def _take(typer_context: typer.Context, path: Path | None) -> None:
    """Stores the path. Raises UsageError if one is given before the command and one after."""
    if path is None:
        return
    if _KEY in typer_context.meta:
        raise UsageError("--env-file is given 2 times", hint="give it once")
    typer_context.meta[_KEY] = path


_EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        metavar="PATH",
        help="File with settings; the environment wins. Default: DOCORA_OPS_ENV_FILE.",
        callback=_take,
        expose_value=False,
        autocompletion=complete_file,
    ),
]


def with_env_file(command: Callable[..., T]) -> Callable[..., T]:
    """Gives a command the option `--env-file`, which `env_file_of` reads."""

    @wraps(command)
    def run(*, env_file: object, **given: Any) -> T:
        return command(**given)

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter(
        "env_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_EnvFile
    )
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), option]
    )
    return run


def env_file_of(typer_context: typer.Context) -> Path | None:
    """Returns the path that is given, or otherwise that of the variable, or None."""
    given: Path | None = typer_context.meta.get(_KEY)
    if given is None and (named := os.environ.get("DOCORA_OPS_ENV_FILE")):
        return Path(named)
    return given
