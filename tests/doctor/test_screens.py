"""The screens of `doctor` at terminals of 40 and 80 columns.

WRITE_TRANSCRIPTS=1 writes the screens of now into the files instead.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.diagnoses import ONE_LOOK, make_healthy
from tests.support.docora import Docora
from tests.support.terminal import at_terminals, plain_data

APPS = ("Acme Search", "Paper Lantern", "Quiet Harbor", "Tin Robot Notes", "Maple Review")
WIDTHS = (40, 80)


def arrange(docora: Docora, state: str) -> None:
    """What there is to be seen."""
    make_healthy(docora)
    if state == "trouble":
        apps = [docora.add_app(name) for name in APPS]
        for number in range(12):
            docora.link(apps[number % len(apps)], docora.add_repository(f"octo/web{number}"))
        docora.connection.execute(
            "UPDATE repositories SET circuit_open_until = now() + interval '1 hour'"
            " WHERE name LIKE 'web_'"
        )
        for name, status in (
            ("api", "pending_snapshot"),
            ("docs", "pending_snapshot"),
            ("web", "scanning"),
        ):
            docora.link(apps[0], docora.add_repository(f"octo/{name}"), status)
        gone = docora.link(apps[1], docora.add_repository("octo/gone"))
        docora.queue_job(gone)
        docora.delete_link(gone)
        docora.age_links()


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("peace", 0),
        ("trouble", 6),
    ],
)
def test_it_shows_what_is_not_ok_and_the_worst_last(docora: Docora, state: str, code: int) -> None:
    arrange(docora, state)
    for columns in WIDTHS:
        shown = at_terminals(docora, ["doctor"], columns=columns, env=ONE_LOOK)
        screen = plain_data(shown.data)
        file = Path(__file__).parent / "screens" / f"{state}_{columns}.txt"
        text = "".join(f"{line.rstrip()}\n" for line in screen.splitlines())
        if os.environ.get("WRITE_TRANSCRIPTS"):
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")
        assert max(map(len, text.splitlines())) <= columns
        assert columns < 80 or text.count("\n") < 24
        assert (shown.code, shown.talk) == (code, "")
