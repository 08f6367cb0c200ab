"""One definition of columns serves a wide terminal, a narrow one, and a pipe."""

from dataclasses import replace
from io import StringIO

import pytest

from docora_ops.links import LinkFailure
from docora_ops.render.columns import Column, Listing, Pairs, cell, shorten
from docora_ops.render.console import make_console
from docora_ops.render.link_tables import failures

Row = tuple[str, str, int, str | None]
COLUMNS: tuple[Column[Row], ...] = (
    Column("App", lambda row: row[0]),
    Column("App id", lambda row: row[1], left_out=1),
    Column("Links", lambda row: row[2], is_number=True),
    Column("Error", lambda row: row[3], folds=True),
)
ROWS: list[Row] = [
    ("Acme 漢字", "app_04c2f7a91be85d3360e1a7c4", 3, "HTTP 500 on created src/index.ts, twice"),
    ("Tin\tRobot", "app_c96a4e02d8f7135b9e0c2a74", 12, None),
]
WIDE = """\
App         App id                        Links  Error
─────────────────────────────────────────────────────────────────────────────
Acme 漢字   app_04c2f7a91be85d3360e1a7c4      3  HTTP 500 on created
                                                 src/index.ts, twice
Tin\\tRobot  app_c96a4e02d8f7135b9e0c2a74     12
"""
NARROW = """\
App         Links  Error
───────────────────────────────────────────
Acme 漢字       3  HTTP 500 on created
                   src/index.ts, twice
Tin\\tRobot     12
"""
BLOCKS = """\
App     Acme 漢字
App id  app_04c2f7a91be85d3360e1a7c4
Links   3
Error   HTTP 500 on created
        src/index.ts, twice

App     Tin\\tRobot
App id  app_c96a4e02d8f7135b9e0c2a74
Links   12
"""
HEADING_AND_ROWS = [
    "App\tApp id\tLinks\tError",
    "Acme 漢字\tapp_04c2f7a91be85d3360e1a7c4\t3\tHTTP 500 on created src/index.ts, twice",
    "Tin\\tRobot\tapp_c96a4e02d8f7135b9e0c2a74\t12\t",
]


def on_screen(part: object, width: int) -> str:
    stream = StringIO()
    console = make_console(stream)
    console.width = width
    console.print(part)
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


@pytest.mark.parametrize(("width", "shown"), [(77, WIDE), (43, NARROW), (36, BLOCKS)])
def test_a_list_loses_columns_and_becomes_blocks_if_narrow(width: int, shown: str) -> None:
    assert on_screen(Listing(COLUMNS, ROWS), width) == shown


FOLDED = """\
App     Links  Error
───────────────────────────────────────
Acme        3  HTTP 500 on created
漢字           src/index.ts, twice
Tin\\tR     12
obot
"""


def test_names_are_folded_before_a_list_becomes_blocks() -> None:
    columns = (replace(COLUMNS[0], narrowest=6), *COLUMNS[1:])
    for width, shown in ((43, NARROW), (39, FOLDED), (36, BLOCKS)):
        assert on_screen(Listing(columns, ROWS), width) == shown


def test_a_column_without_any_value_is_left_to_a_pipe() -> None:
    quiet = Listing(COLUMNS, [(*ROWS[1][:3], None)])
    assert "Error" not in on_screen(quiet, 77)
    assert "Error" in next(quiet.lines())


def test_a_pipe_gets_every_column_separated_by_tabs_and_what_a_screen_leaves_out() -> None:
    assert list(Listing(COLUMNS, ROWS, most=1).lines()) == HEADING_AND_ROWS
    assert on_screen(Listing(COLUMNS, ROWS, most=1), 77).endswith("and 1 more: see --json\n")
    assert list(Listing(COLUMNS, []).lines()) == HEADING_AND_ROWS[:1]


def test_names_and_values_are_shown_beside_each_other() -> None:
    pairs = Pairs([("Job", cell("a-b")), ("", cell("waits")), ("Link", cell("x" * 30))])
    assert list(pairs.lines()) == ["Job\ta-b", "Job\twaits", f"Link\t{'x' * 30}"]
    assert on_screen(pairs, 80) == f"Job   a-b\n      waits\nLink  {'x' * 30}\n"
    assert on_screen(pairs, 33) == f"Job   a-b\n      waits\nLink  {'x' * 27}\n      xxx\n"


COMPACT = """\
App        Links  Error
──────────────────────────────────
Acme 漢字      3  HTTP 500 on cre…
Tin\\…obot     12
"""


def test_a_compact_list_cuts_names_in_the_middle_and_long_texts_at_their_end() -> None:
    columns = (replace(COLUMNS[0], narrowest=9), *COLUMNS[1:])
    listing = Listing(columns, ROWS, is_compact=True)
    assert on_screen(listing, 34) == COMPACT
    assert list(listing.lines()) == HEADING_AND_ROWS


def test_a_list_of_failures_has_one_row_for_each_link_that_begins_with_the_reason() -> None:
    path = "docs/" * 20
    errors = (f"HTTP 502 on created {path}", f"Notification failed for created {path}: HTTP 502")
    names = ("Quiet Harbor", "octo/handbook")
    links = [LinkFailure("a-r", "a", "r", error, *names) for error in errors]
    first, second = on_screen(failures(links), 80).splitlines()[2:]
    assert first == second
    assert "HTTP 502 on created docs/" in first


def test_a_name_that_is_cut_keeps_both_ends_and_its_width() -> None:
    assert shorten("hollow-hill/handbook", 11) == "hollo…dbook"
    assert shorten("漢字漢字漢字", 8) == "漢字… 字"
    assert shorten("short", 5) == "short"
