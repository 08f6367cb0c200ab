"""Markdown for a terminal."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Markdown, TableElement
from rich.table import Table
from rich.text import Text


class _WholeTable(TableElement):
    """A table that folds long words instead of cutting them off with an ellipsis."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for renderable in super().__rich_console__(console, options):
            if isinstance(renderable, Table):
                for column in renderable.columns:
                    column.overflow = "fold"
            yield renderable


class _WholeCode(CodeBlock):
    """Code whose lines are left to the terminal to break, so that they can be pasted."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(str(self.text).rstrip(), "cyan", no_wrap=True, overflow="ignore")


class WholeMarkdown(Markdown):
    """Markdown that is shown whole, however narrow the terminal is."""

    elements = Markdown.elements | {"table_open": _WholeTable, "fence": _WholeCode}
