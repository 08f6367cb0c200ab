"""`help`: shows commands and topics, without settings and without servers."""

import re
import sys
from importlib.resources import files
from typing import Annotated, Any

import typer

from docora_ops.cli.streams import show_paged
from docora_ops.errors import UsageError

_LIST = """\
# docora-ops

- `docora-ops help NAME` shows the help of a command or a topic.
- `docora-ops COMMAND --help` shows the options of a command.

## Commands

{commands}

## Topics

{topics}
"""


def show_help(
    typer_context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="A command or a topic (default: list all).",
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
        pages.append(topics[name])
    if not pages:
        raise UsageError(
            f"no command or topic is called {name!r}",
            hint="docora-ops help lists all of them",
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


def _topics() -> dict[str, str]:
    """Returns the Markdown of each topic."""
    found = files("docora_ops").joinpath("help").iterdir()
    return {
        file.name.removesuffix(".md"): file.read_text(encoding="utf-8")
        for file in sorted(found, key=lambda each: each.name)
    }


def _list(commands: dict[str, Any], topics: dict[str, str]) -> str:
    """Returns the list of commands and topics, a topic with its first sentence."""
    shown = {name: command.short_help for name, command in commands.items()}
    more = {
        name: text.split("\n\n")[1].replace("\n", " ").partition(". ")[0].rstrip(".") + "."
        for name, text in topics.items()
        if name not in commands
    }
    items = [
        "\n".join(f"- `{name}`: {text}" for name, text in each.items()) for each in (shown, more)
    ]
    return _LIST.format(commands=items[0], topics=items[1])


def _show(text: str) -> None:
    """Writes the Markdown to stdout, rendered if that is a terminal."""
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from docora_ops.render.console import make_console
    from docora_ops.render.markdown import WholeMarkdown

    # Links to other topics are paths in the repository: only their text is of use here.
    text = re.sub(r"\[([^]]+)\]\([\w./#-]+\)", r"\1", text)
    console = make_console(sys.stdout)
    with console.capture() as capture:
        console.print(WholeMarkdown(text, hyperlinks=False), crop=False)
    show_paged(capture.get(), console.height)
