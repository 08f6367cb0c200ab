"""`help`: shows commands and topics, without settings and without servers."""

import json
import sys
from importlib.resources import files
from typing import Annotated, Any, TextIO

import typer

from docora_ops.cli.completion import complete_page
from docora_ops.errors import UsageError


def show_help(
    typer_context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="A command or a topic (default: list the topics).",
            autocompletion=complete_page,
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
    """Show help for a command or a topic.

    A topic explains one subject, such as exit codes or privileges. Needs no settings and no server.
    """
    if schema is not None:
        from docora_ops.cli.schemas import schema_of

        json_schema = schema_of(schema)
        if json_schema is None:
            raise UsageError(f"no command with --json is called {schema!r}", hint="docora-ops help")
        sys.stdout.write(json.dumps(json_schema, indent=2) + "\n")
        return
    root = typer_context.find_root()
    commands: Any = root.command
    folder = files("docora_ops").joinpath("help")
    names = sorted(file.name for file in folder.iterdir())
    topics = {
        name.removesuffix(".md"): folder.joinpath(name).read_text(encoding="utf-8")
        for name in names
        if name.endswith(".md") and name != "README.md"  # the index for readers on GitHub
    }
    pages = []
    if name is None:
        pages.append("# Topics of docora-ops help\n")
        for topic, text in topics.items():
            paragraph = text.split("\n\n")[1].replace("\n", " ")
            first = paragraph.partition(". ")[0].rstrip(".")
            pages.append(f"- `{topic}`: {first}.")
        pages.append("")
    elif command := commands.get_command(root, name):
        text = command.get_help(typer.Context(command, info_name=name, parent=root))
        pages.append(f"# docora-ops {name}\n\n```text\n{text}\n```\n")
    if name in topics:
        pages.append(topics[name])
    if not pages:
        from difflib import get_close_matches  # slow to import

        near = get_close_matches(name or "", [*commands.commands, *topics], 1)
        lists = "see docora-ops --help for the commands, and docora-ops help for the topics"
        raise UsageError(
            f"no command or topic is called {name!r}",
            hint=f"did you mean {near[0]}?" if near else lists,
        )
    text = "\n".join(pages)
    if name == "grafana":
        # Only the dashboard goes to stdout, so that Grafana can import it from a file.
        sys.stdout.write(folder.joinpath("grafana.json").read_text(encoding="utf-8"))
        sys.stderr.write(_formatted(text, sys.stderr))
    else:
        sys.stdout.write(_formatted(text, sys.stdout))


def _formatted(text: str, stream: TextIO) -> str:
    if not stream.isatty():
        return text
    from docora_ops.render.console import MARKDOWN_THEME, make_console, markdown

    console = make_console(stream)
    with console.capture() as capture, console.use_theme(MARKDOWN_THEME):
        for part in markdown(text):
            console.print(part, soft_wrap=isinstance(part, str))
    return capture.get()
