"""`help`: shows commands and topics, without settings and without servers."""

import re
import sys
from importlib.resources import files
from typing import Annotated, Any

import typer

from docora_ops.cli.completion import complete_page
from docora_ops.errors import UsageError

_LINK = re.compile(r"\[([^]]+)\]\([a-z-]+\.md\)")
_CODE = re.compile(r"^ *```[a-z]*\n(.*?)^ *```\n", re.MULTILINE | re.DOTALL)


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
) -> None:
    """Show help for a command or a topic.

    A topic explains one subject, such as exit codes or privileges. Needs no settings and no server.
    """
    root = typer_context.find_root()
    commands: Any = root.command
    folder = files("docora_ops").joinpath("help")
    names = sorted(file.name for file in folder.iterdir())
    topics = {
        name.removesuffix(".md"): folder.joinpath(name).read_text(encoding="utf-8")
        for name in names
        if name.endswith(".md") and name != "README.md"  # the index for readers on GitHub
    }
    if name == "grafana.json":  # to be imported into Grafana
        sys.stdout.write(folder.joinpath(name).read_text(encoding="utf-8"))
        return
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
    sys.stdout.write(_formatted("\n".join(pages)))


def _formatted(text: str) -> str:
    if not sys.stdout.isatty():
        return text
    from rich.markdown import Markdown  # takes a tenth of a second

    from docora_ops.cli.output import console_of

    console = console_of(sys.stdout)
    with console.capture() as capture:
        # Links lead to files of other topics. The text of a link already names the topic. Code is
        # not wrapped, so that commands can be pasted.
        for number, part in enumerate(_CODE.split(_LINK.sub(r"\1", text))):
            is_code = number % 2 == 1
            console.print(f"\n{part}" if is_code else Markdown(part), soft_wrap=is_code)
    return capture.get()
