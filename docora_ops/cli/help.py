"""`help`: shows commands and topics, without settings and without servers."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docora_ops.cli.exit_codes import ExitCode
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

_COMMAND = """\
# docora-ops {name}

{description}

```sh
{usage}
```

{parameters}

Example:

```sh
{example}
```
"""


def _complete(typer_context: typer.Context, incomplete: str) -> list[str]:
    """Returns the commands and topics that begin with the typed text."""
    names = {**_commands(typer_context), **_topics()}
    return [name for name in names if name.startswith(incomplete)]


def show_help(
    typer_context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="A command or a topic; without it, all of them are listed.",
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
) -> int:
    """Show the help of a command or a topic, or list all of them.

    A topic explains one subject, such as exit codes or privileges. Needs no settings and no
    server. Prints Markdown unless stdout is a terminal.
    """
    commands, topics = _commands(typer_context), _topics()
    if schema is not None:
        return _show_schema(schema)
    pages = []
    if name is None:
        pages.append(_list(commands, topics))
    if name in commands:
        pages.append(_describe(typer_context, name, commands[name]))
    if name in topics:
        pages.append(topics[name].read_text(encoding="utf-8"))
    if not pages:
        raise UsageError(
            f"no command or topic is called {name!r}",
            hint=_did_you_mean(str(name), [*commands, *topics]),
        )
    _show("\n".join(pages))
    return ExitCode.OK


def _show_schema(command: str) -> int:
    import json

    from docora_ops.render.documents import schema_of

    found = schema_of(command)
    if found is None:
        raise UsageError(f"no command with --json is called {command!r}", hint="docora-ops help")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return ExitCode.OK


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
        commands=_items((name, command.help.splitlines()[0]) for name, command in commands.items()),
        topics=_items(
            (name, _first_sentence(file)) for name, file in topics.items() if name not in commands
        ),
    )


def _first_sentence(topic: Traversable) -> str:
    """Returns the first sentence below the heading."""
    _, paragraph, *_ = topic.read_text(encoding="utf-8").split("\n\n", 2)
    return paragraph.replace("\n", " ").partition(". ")[0].rstrip(".") + "."


def _describe(typer_context: typer.Context, name: str, command: Any) -> str:
    """Returns what `--help` shows of a command, as Markdown."""
    context = typer.Context(command, info_name=name, parent=typer_context.find_root())
    usage = (piece.strip("{}") for piece in command.collect_usage_pieces(context))
    return _COMMAND.format(
        name=name,
        description=command.help,
        usage=" ".join(["docora-ops", name, *usage]),
        parameters=_items(each.get_help_record(context) for each in command.get_params(context)),
        example=command.epilog.removeprefix("Example: "),
    )


def _items(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- `{name}`: {' '.join(text.split())}" for name, text in rows)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # seldom needed, and slow to import

    near = get_close_matches(name.casefold(), dict.fromkeys(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "docora-ops help lists all of them"


def _show(text: str) -> None:
    if sys.stdout.isatty():
        from docora_ops.cli.pager import show_markdown

        show_markdown(text)
    else:
        sys.stdout.write(text)
