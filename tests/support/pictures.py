"""Pictures of a terminal, as SVG, and the comparison of two of them."""

import html
import io
import re

from rich.console import Console
from rich.text import Text

from tests.support.transcripts import comparable

COLUMNS = 100
_REDRAWN = re.compile(r"^.*\r\x1b\[2K", re.MULTILINE)
_CURSOR = re.compile(r"\x1b\[\?25[lh]")
_TEXT = re.compile(r'<text class="([^"]*)"[^>]*>(.*?)</text>')


def draw(command: str, shown: str) -> str:
    """Returns the picture of a terminal of COLUMNS after a command that has shown this."""
    console = Console(width=COLUMNS, file=io.StringIO(), record=True, force_terminal=True)
    console.print(Text(f"$ {command}", "bold"))
    for line in _REDRAWN.sub("", _CURSOR.sub("", shown.replace("\r\n", "\n"))).splitlines():
        text = Text.from_ansi(line)
        text.rstrip()
        console.print(text)
    return console.export_svg(title=command, unique_id="docora-ops")


def comparable_picture(svg: str) -> list[str]:
    """Returns the texts of a picture with their styles, without what differs from run to run."""
    texts = "\n".join(f"{style} {html.unescape(text)}" for style, text in _TEXT.findall(svg))
    return comparable(texts.replace("\N{NO-BREAK SPACE}", " "))
