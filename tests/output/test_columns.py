"""One definition of columns serves a wide terminal, a narrow one, and a pipe."""

import re
from collections import Counter
from io import StringIO

import pytest
from rich.cells import cell_len

from docora_ops.links import LinkFailure
from docora_ops.render.columns import Column, Listing, Pairs, cell, lines_of
from docora_ops.render.console import make_console
from docora_ops.render.link_view import failures
from docora_ops.text import inert
from tests.support.docora import COMMAND, Docora
from tests.support.hostile_texts import EVIL, TRICKS
from tests.support.terminal import QUESTION, TerminalSession, assert_inert, at_terminals

STYLE = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")
AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}

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


def plain(shown: str) -> str:
    return STYLE.sub("", shown).replace("\r", "")


@pytest.mark.parametrize(("width", "shown"), [(77, WIDE), (43, NARROW), (36, BLOCKS)])
def test_a_list_loses_columns_and_then_becomes_blocks_as_the_screen_narrows(
    width: int, shown: str
) -> None:
    assert on_screen(Listing(COLUMNS, ROWS), width) == shown


def test_a_pipe_gets_every_column_separated_by_tabs_and_what_a_screen_leaves_out() -> None:
    assert list(lines_of(Listing(COLUMNS, ROWS, most=1))) == HEADING_AND_ROWS
    assert on_screen(Listing(COLUMNS, ROWS, most=1), 77).endswith("and 1 more: see --json\n")
    assert list(lines_of(Listing(COLUMNS, []))) == HEADING_AND_ROWS[:1]


def test_names_and_values_are_shown_beside_each_other() -> None:
    pairs = Pairs([("Job", cell("a-b")), ("", cell("waits")), ("Link", cell("x" * 30))])
    assert list(lines_of(pairs)) == ["Job\ta-b", "Job\twaits", f"Link\t{'x' * 30}"]
    assert on_screen(pairs, 80) == f"Job   a-b\n      waits\nLink  {'x' * 30}\n"
    assert on_screen(pairs, 33) == f"Job   a-b\n      waits\nLink  {'x' * 27}\n      xxx\n"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_hostile_text_is_wrapped_on_a_screen_and_whole_in_a_pipe(width: int) -> None:
    for text in (*TRICKS, EVIL, "\0", "lone\ud800surrogate\udfff", "x" * 2000):
        letters = Counter(inert(text).replace(" ", ""))
        for part in (Listing(COLUMNS, [(text, text, 1, text)]), Pairs([("Name", cell(text))])):
            shown = on_screen(part, width)
            assert_inert(shown)
            assert max(map(cell_len, shown.splitlines())) <= width
            assert not letters - Counter(shown)
            assert inert(text).strip() in "\n".join(lines_of(part))


def test_a_very_long_text_is_cut_on_a_screen_and_whole_in_a_pipe() -> None:
    listing = failures([LinkFailure("link", "app", "repo", "z" * 150_000)])
    shown = on_screen(listing, 80)
    assert (shown.count("z"), shown.count("…")) == (1999, 1)
    assert "z" * 150_000 in "".join(lines_of(listing))


def test_at_80_columns_no_id_is_broken_in_two(docora: Docora) -> None:
    docora.add_links(2, apps=2)
    [first, lost] = docora.links()
    [bad] = docora.add_poison(1)
    docora.set_link(lost, status="pending_snapshot")
    docora.set_link(bad, status="pending_snapshot")
    docora.age_links()
    for arguments in (
        ["retry", *first.ids],
        ["resync", first.app_id, "--all", "--yes"],
        ["retry", *lost.ids],
        ["show", *first.ids],
        ["links", "--group-by", "repository"],
        ["queue"],
        ["schedule", "--dry-run"],
        ["repair", "--dry-run", "--list"],
        ["operations"],
        ["history"],
    ):
        shown = at_terminals(docora, arguments, columns=80, env=AT_ONCE)
        text = plain(shown.data + shown.talk)
        for found in re.findall(r"\b(?:app|repo)_\d+|\bbulk_\w+", text):
            length = {"a": 28, "r": 29, "b": 21}[found[0]]
            assert len(found) == length, (arguments, text)
        too_long = [line for line in text.split("\n") if len(line) > 80 and "━" not in line]
        assert not too_long, (arguments, text)


def test_failures_come_after_the_counts_and_ids_stand_in_for_names(docora: Docora) -> None:
    docora.add_poison(22)
    docora.add_worker()
    lines = docora.run("retry-all-failed").stdout.splitlines()
    assert lines[0] == "App\tApp id\tnot queued\ttotal"
    assert lines[1] == "all\t\t22\t22"
    heading = lines.index("Not queued\tWhy")
    assert re.match("Poison 0 ← octo/poison0\tthe ids", lines[heading + 1])
    assert len(lines) == heading + 23


def test_the_question_of_a_repair_and_its_result_count_by_app(docora: Docora) -> None:
    docora.add_links(3, apps=2, status="pending_snapshot")
    bad = docora.link(
        docora.add_app("Poison", "app_!"), docora.add_repository("o/p", "repo_!"), "scanning"
    )
    docora.age_links()
    environment = docora.environment(TERM="xterm-256color", **AT_ONCE)
    command = ["sh", "-c", '"$0" "$@" 2>/dev/null', str(COMMAND), "repair"]
    with TerminalSession(command, environment, 80, 24) as session:
        asked = plain(session.read_until(re.compile(b"(?s)\\A.*" + QUESTION.pattern))[0].decode())
        session.type(b"y\n")
        code, shown = session.end()
    assert code == 6
    assert max(map(len, asked.split("\n")[:-1])) <= 80
    assert re.search(r"App 1 +lost +2\b", asked)
    result = plain(shown)[len(asked) :]
    assert re.search(r"App 1 +lost +2 +2 queued", result)
    assert re.search(r"App 2 +lost +1 +1 queued", result)
    assert re.search(r"Poison +stuck +1 +1 not repaired", result)
    assert re.search(r"Poison ← o/p +stuck +not repaired +the ids", result)
    assert "octo/repo1" not in result
    assert docora.status(bad) == "scanning"
    docora.connection.execute("UPDATE app_repositories SET retry_count = 0")
    docora.redis.delete(docora.queue.key)
    listed = docora.run("repair", "--list", env=AT_ONCE)
    assert re.search(r"App 1 ← octo/repo1\tlost\tqueued\t\tapp_0", listed.stdout)
