"""What commands print in a small Docora: console blocks in Markdown files, and pictures as SVG."""

import html
import io
import json
import re
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.text import Text

_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)
_OPERATION = re.compile(r"bulk_[0-9a-f]{16}")
COLUMNS = 100

_VARYING = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "MOMENT"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\dZ", "TIME"),
    (r"\b\d{4}-\d\d-\d\d\b", "DATE"),
    (r"\b\d\d:\d\d(Z| (?=kim@))", "TIME "),
    (r"bulk_[0-9a-f]{16}", "OPERATION"),
    (r"\bafter \d+s\b", "after SECONDS"),
    (r"\bagain in \d+ s\b", "again in SECONDS"),
    (r"\b\d+d(\d+h)?\b", "DURATION"),
    (r"\bfor (\d+[hm])?\d+[hms]( to (\d+[hm])?\d+[hms])?\b", "for SECONDS"),
    (r"\b(\d+[hm])?\d+[hms] ago\b", "SECONDS ago"),
    (r"\b[\d,.]+ ms\b", "MILLISECONDS"),
    (r'("[a-z]*_latency_ms"): \d+', r"\1: NUMBER"),
    (r"\b\d+ (running|busy)\b", r"NUMBER \1"),
    (r"\b\d+ MiB used, \d+%", "MEMORY"),
    (r"\b(PostgreSQL|Valkey|Redis) \d[\d.]*", "VERSION"),
    (r"\b[\d.]+ snapshots a minute, [\d.]+ due(: enough slots, [a-z ]+)?", "PACE"),
    (r"\b(nothing to save yet|snapshots|append-only file)\b", "PERSISTENCE"),
    (r'("[a-z_]*seconds?"|"expires_in"|"pid"): "?[\d.]+"?', r"\1: NUMBER"),
    (r"[▁▂▃▄▅▆▇█]{8}", "BARS"),
    (r"\b\d+/h in the last 20 to 30m, \w+", "RATE"),
    (r"─+", "─"),
    (r"\s+", " "),
)
"""Patterns of what differs from run to run, with what stands for it in a comparison."""


def play(text: str, run: Callable[[str], str]) -> str:
    """Returns the text with what the commands of its console blocks print now.

    `run` runs one command line and returns what it printed.
    """
    ids_in_text = _operations(text)
    shown_so_far = ""

    def play_command(command: str) -> str:
        nonlocal shown_so_far
        # The text has the operation ids of an earlier run.
        ids = dict(zip(ids_in_text, _operations(shown_so_far), strict=False))
        as_run = _OPERATION.sub(lambda found: ids.get(found[0], found[0]), command)
        shown = f"$ {as_run}\n{_readable(run(as_run))}"
        shown_so_far += shown
        return shown

    def play_block(block: re.Match[str]) -> str:
        return "".join(map(play_command, _COMMAND.findall(block[0])))

    return _BLOCK.sub(play_block, text)


def _operations(text: str) -> list[str]:
    return list(dict.fromkeys(each for each in _OPERATION.findall(text)))


def with_other_user(shown: str, who: str) -> str:
    """Returns the text with kim@ops1 instead of who has run the commands, in columns too."""
    other = "kim@ops1"
    more = len(other) - len(who)
    if re.search(r"^When +Who ", shown, re.MULTILINE):
        shown = shown.replace(who, other.ljust(len(who)))
        return re.sub(r"^(When +Who)", rf"\1{' ' * more}", shown, flags=re.MULTILINE)
    return shown.replace(who, other)


def comparable(text: str) -> list[str]:
    """Returns the text, cut before each command, without what differs from run to run."""
    for pattern, placeholder in _VARYING:
        text = re.sub(pattern, placeholder, text)
    return text.split("$ docora-ops ")


def _readable(shown: str) -> str:
    if shown.startswith("{"):
        return f"{_folded(json.loads(shown))}\n"
    return _with_short_rules("".join(f"{line.rstrip()}\n" for line in shown.splitlines()))


def _with_short_rules(shown: str) -> str:
    lines: list[str] = []
    for line in shown.splitlines():
        lines.append("─" * len(lines[-1]) if line.startswith("─") else line)
    return "".join(f"{line}\n" for line in lines)


def _folded(value: Any, indent: str = "", before: int = 0) -> str:
    """Returns JSON with each list and object on one line if it fits, else on several.

    `before`: how many characters stand before it on its first line.
    """
    flat = json.dumps(value, ensure_ascii=False)
    if (
        len(indent) + before + len(flat) < COLUMNS
        or not isinstance(value, dict | list)
        or not value
    ):
        return flat
    inner = indent + "  "
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + _folded(each, inner) for each in value) + f"\n{indent}]"
    lines = [""]
    for name, each in value.items():
        label = f"{json.dumps(name)}: "
        piece = label + _folded(each, inner, len(label))
        if lines[-1] and "\n" not in piece and len(lines[-1]) + len(piece) + 3 < COLUMNS:
            lines[-1] += f", {piece}"
        elif lines[-1]:
            lines[-1] += ","
            lines.append(inner + piece)
        else:
            lines[-1] = inner + piece
    return "{\n" + "\n".join(lines) + f"\n{indent}}}"


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
