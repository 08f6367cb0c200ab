"""Shows Markdown at a terminal, in a pager if it is longer than the screen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress

_COULD_NOT_RUN = (126, 127)
"""Exit codes of a shell that could not run the pager."""


def show_markdown(text: str) -> None:
    """Render the text on stdout, which is a terminal."""
    from docora_ops.render.console import is_terminal, make_console
    from docora_ops.render.markdown import WholeMarkdown

    # Links to other topics are paths in the repository: only their text is of use here.
    text = re.sub(r"\[([^]]+)\]\([\w./#-]+\)", r"\1", text)
    console = make_console(sys.stdout)
    with console.capture() as capture:
        console.print(WholeMarkdown(text, code_theme="ansi_dark", hyperlinks=False))
    rendered = capture.get()
    is_long = rendered.count("\n") >= console.height
    if not (is_long and is_terminal(sys.stdout) and _page(rendered)):
        sys.stdout.write(rendered)


def _page(text: str) -> bool:
    """Show the text in the pager that PAGER names, or in `less`; return False if it can't run."""
    pager = os.environ.get("PAGER", "less")
    if not pager:
        return False
    # Ctrl-C is a key of the pager, too. The pager does not inherit a handler, as it would SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    process = subprocess.Popen(
        ["sh", "-c", pager],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"LESS": "FRX", **os.environ},  # -R: show colours
    )
    with suppress(BrokenPipeError):
        process.communicate(text.encode(errors="backslashreplace"))
    return process.wait() not in _COULD_NOT_RUN
