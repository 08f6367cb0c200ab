"""`help`: shows commands and topics, without settings and without servers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docora_ops.cli.streams import show_paged
from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_LIST = """\
# docora-ops

- `docora-ops help NAME` shows the help of a command or a topic.
- `docora-ops COMMAND --help` shows the options of a command.

## Commands

{commands}

## Topics

{topics}
"""


def _complete(typer_context: typer.Context) -> list[str]:
    """Returns the commands and topics."""
    return [*{**_commands(typer_context), **_topics()}]


def show_help(
    typer_context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="A command or a topic (default: list all).",
            autocompletion=_complete,
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
    """Show the help of a command or a topic, or list them.

    A topic explains one subject, such as exit codes or privileges. Needs no settings and no server.
    Prints Markdown unless stdout is a terminal.
    """
    commands, topics = _commands(typer_context), _topics()
    if schema is not None:
        _show_schema(schema)
        return
    pages = []
    if name is None:
        pages.append(_list(commands, topics))
    if name in commands:
        command = commands[name]
        context = typer.Context(command, info_name=name, parent=typer_context.find_root())
        pages.append(f"# docora-ops {name}\n\n```text\n{command.get_help(context)}\n```\n")
    if name in topics:
        pages.append(topics[name].read_text(encoding="utf-8"))
    if not pages:
        raise UsageError(
            f"no command or topic is called {name!r}",
            hint=_did_you_mean(str(name), [*commands, *topics]),
        )
    _show("\n".join(pages))


def _show_schema(command: str) -> None:
    import json

    from docora_ops.render.documents import schema_of

    found = schema_of(command)
    if found is None:
        raise UsageError(f"no command with --json is called {command!r}", hint="docora-ops help")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def _commands(typer_context: typer.Context) -> dict[str, Any]:
    """Returns Typer's object of each command."""
    group: Any = typer_context.find_root().command
    return dict(group.commands)


def _topics() -> dict[str, Traversable]:
    """Returns the Markdown file of each topic."""
    from importlib.resources import files

    found = files("docora_ops").joinpath("help").iterdir()
    return {
        file.name.removesuffix(".md"): file for file in sorted(found, key=lambda each: each.name)
    }


def _list(commands: dict[str, Any], topics: dict[str, Traversable]) -> str:
    return _LIST.format(
        commands=_items((name, command.short_help) for name, command in commands.items()),
        topics=_items(
            (name, _first_sentence(file)) for name, file in topics.items() if name not in commands
        ),
    )


def _first_sentence(topic: Traversable) -> str:
    """Returns the first sentence below the heading."""
    _, paragraph, *_ = topic.read_text(encoding="utf-8").split("\n\n", 2)
    return paragraph.replace("\n", " ").partition(". ")[0].rstrip(".") + "."


def _items(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- `{name}`: {text}" for name, text in rows)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # seldom needed, and slow to import

    near = get_close_matches(name.casefold(), dict.fromkeys(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "docora-ops help lists all of them"


def _show(text: str) -> None:
    """Writes the Markdown to stdout, rendered if that is a terminal."""
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from docora_ops.render.console import make_console, print_markdown

    # Links to other topics are paths in the repository: only their text is of use here.
    text = re.sub(r"\[([^]]+)\]\([\w./#-]+\)", r"\1", text)
    console = make_console(sys.stdout)
    with console.capture() as capture:
        print_markdown(console, text)
    show_paged(capture.get(), console.height)
