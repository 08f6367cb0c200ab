"""`make pictures`: draws README's pictures from the real commands on the demo's servers."""

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from docora_ops.demo import story

FOLDER = Path(__file__).parents[1] / ".github" / "pictures"
WIDTH = 100
COMMANDS = {
    "status": ["status"],
    "failed": ["failed", "--group-by", "error"],
    "retry-all-failed": ["retry-all-failed", "--yes", "--wait"],
}


def draw(name: str, arguments: list[str]) -> None:
    """Runs one command at a terminal of its own, and draws what it shows."""
    script = ["script", "--quiet", "--return", "--command"]
    line = " ".join([sys.executable, "-m", "docora_ops", *arguments])
    terminal = {"COLUMNS": str(WIDTH), "LINES": "40", "TERM": "xterm-256color"}
    shown = subprocess.run(
        [*script, f"stty cols {WIDTH}; {line} 2>/dev/null", "/dev/null"],
        env=os.environ | terminal,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("\r\n", "\n")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(f"$ docora-ops {' '.join(arguments)}", style="bold", highlight=False)
    console.print(Text.from_ansi(shown))
    picture = console.export_svg(title="docora-ops", unique_id=name)
    # Without fonts from elsewhere, it is drawn the same without a network.
    (FOLDER / f"{name}.svg").write_text(picture, encoding="utf-8")


def main() -> None:
    with story.prepared() as demo, story.workers(demo.settings):
        for name, arguments in COMMANDS.items():
            draw(name, arguments)


if __name__ == "__main__":
    main()
