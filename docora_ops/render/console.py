"""Consoles for terminals, pipes and files; progress bars and Markdown for terminals."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, ConsoleDimensions
from rich.theme import Theme

if TYPE_CHECKING:
    from rich.markdown import Markdown

# Legible on a light background, too.
MARKDOWN_THEME = Theme({"markdown.code": "cyan", "markdown.h1": "bold", "markdown.h2": "bold"})
_LINK = re.compile(r"\[([^]]+)\]\([a-z-]+\.md\)")
# A word as `shlex.quote` writes it: the name O'Brien becomes 'O'"'"'Brien'.
_WORD = r"""(?:'[^']*'(?:"'"'[^']*')*|"[^"]*"|(?:[^\s'"(,;]|,(?! ))+)"""
_COMMAND = re.compile(rf"\b(?:docora-ops|redis-cli)(?: {_WORD})+")
_CODE = re.compile(r"^ *```[a-z]*\n(.*?)^ *```\n", re.MULTILINE | re.DOTALL)


def may_animate(stream: TextIO) -> bool:
    """Tells whether the stream may show animations."""
    is_dumb = os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR")
    return stream.isatty() and not is_dumb


@cache
def make_console(stream: TextIO) -> Console:
    """Makes a console that neither colours nor animates unless the stream is a terminal.

    There is one console per stream, so that output during a progress bar appears above the bar.
    """
    console = Console(
        file=stream,
        force_terminal=stream.isatty() and os.environ.get("TERM") != "dumb",
        no_color=True if os.environ.get("NO_COLOR") else None,
        markup=False,
        emoji=False,
        highlight=False,
    )
    if not console.width:  # COLUMNS=0, with which Rich shows nothing
        console.width = 80
    return console


def wrapped(text: str, width: int) -> str:
    """Breaks a text into lines, between words. Keeps commands whole, so that they can be pasted."""
    whole = _COMMAND.sub(lambda command: command[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


@dataclass
class Redrawing:
    """A text on the terminal of stdout that replaces itself in place, without scrolling."""

    _lines: int = 0  # of the text that is shown
    _size: ConsoleDimensions | None = None

    def draw(self, text: str) -> None:
        """Replaces the text. Of a text that is too long, shows the beginning and the last line."""
        lines, size = text.splitlines(), make_console(sys.stdout).size
        if len(lines) > (most := max(2, size.height - 1)):
            lines = [*lines[: most - 1], lines[-1]]
        # A terminal whose size has changed may have wrapped or moved the lines.
        moved = "\x1b[H" if self._size not in {None, size} else "\x1b[1A" * self._lines
        self._lines, self._size = len(lines), size
        sys.stdout.write(f"{moved}\x1b[J" + "".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


@contextmanager
def progress_bar(total: int | None = None, description: str = "") -> Iterator[Callable[..., None]]:
    """Shows a progress bar if stderr is a terminal. Yields a function that updates it.

    The function takes the number of links done and, optionally, a new description and a new total.
    """
    if not may_animate(sys.stderr):
        yield lambda *_: None
        return
    from rich import progress as rich  # not needed by commands that show no bar
    from rich.table import Column

    text = rich.TextColumn("{task.description}", table_column=Column(ratio=1))
    columns = (rich.BarColumn(16), text, rich.MofNCompleteColumn(), rich.TimeRemainingColumn())
    with rich.Progress(
        *columns,
        console=make_console(sys.stderr),
        expand=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done, text=None, total=None: progress.update(
            task, completed=done, description=text, total=total
        )


def markdown(text: str) -> Iterator[Markdown | str]:
    """Yields the parts of a Markdown text for a terminal.

    Code blocks are not wrapped, so that commands can be pasted.
    """
    from rich.markdown import Markdown  # takes a tenth of a second

    # Links lead to files of other topics. The text of a link already names the topic.
    text = _LINK.sub(r"\1", text)
    for index, part in enumerate(_CODE.split(text)):
        is_code = index % 2 == 1
        yield f"\n{part}" if is_code else Markdown(part)
