"""`help`: shows commands and topics, without settings and without servers."""

import json
import sys
from importlib.resources import files
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

from docora_ops.cli.streams import show_paged
from docora_ops.errors import UsageError


def show_help(
    typer_context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="A command or a topic (default: list the topics).",
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Print the JSON Schema of what COMMAND prints with --json, instead of a topic.",
        ),
    ] = None,
) -> None:
    """Show the help of a command or a topic, or list the topics.

    A topic explains one subject, such as exit codes or privileges. Needs no settings and no server.
    """
    if schema is not None:
        from docora_ops.render.documents import schema_of

        found = schema_of(schema)
        if found is None:
            raise UsageError(f"no command with --json is called {schema!r}", hint="docora-ops help")
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    root = typer_context.find_root()
    group: Any = root.command
    topics = {
        file.name.removesuffix(".md"): file.read_text(encoding="utf-8")
        for file in sorted(files("docora_ops").joinpath("help").iterdir(), key=lambda it: it.name)
    }
    pages = []
    if name is None:
        pages.append(_list(topics))
    if name in group.commands:
        command = group.commands[name]
        text = command.get_help(typer.Context(command, info_name=name, parent=root))
        pages.append(f"# docora-ops {name}\n\n```text\n{text}\n```\n")
    if name in topics:
        pages.append(topics[name])
    if not pages:
        raise UsageError(
            f"no command or topic is called {name!r}",
            hint="see docora-ops --help for the commands, and docora-ops help for the topics",
        )
    show_paged("\n".join(pages), get_terminal_size().lines)


def _list(topics: dict[str, str]) -> str:
    """Returns the list of topics, each with its first sentence."""
    lines = ["# Topics of docora-ops help\n"]
    for name, text in topics.items():
        paragraph = text.split("\n\n")[1].replace("\n", " ")
        lines.append(f"- `{name}`: {paragraph.partition('. ')[0].rstrip('.')}.")
    return "\n".join([*lines, ""])
