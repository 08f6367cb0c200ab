"""A line of `--group-by error`, given to `--error`, finds every link that it stands for."""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from docora_ops.actions.reading import count_by_error
from docora_ops.database.link_reports import links_by_group
from docora_ops.folding import LONGEST
from docora_ops.link_lists import LinkGroup
from docora_ops.links import LinkFilter
from docora_ops.text import inert
from tests.support.docora import Docora

PIECES = (
    *("HTTP 502 on created ", "Notification failed for created ", ": ", " ", "*", "%", "_", "\\"),
    *("\\%", "'", '"', "\n", "\t", "\x1b[2J", "\u202e", "\u200b", "\xa0", "\u3000", "\u00e9"),
    *("a/b.ts", "https://u:p@h.example/x?token=abc", "ghp_0123456789abcdefABCD", "word", "12"),
    *("x " * (LONGEST // 2), "y" * (LONGEST - 8), "\u6f22\u5b57", "\U000e0101", "\uffff"),
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
ERRORS = st.lists(st.sampled_from(PIECES) | TEXTS, max_size=8).map("".join)
LINKS = 6
CUT = tuple(
    "x" * (LONGEST - 10) + end
    for end in (" ghp_01", " ghp_0123456789abcdefABCD", "y" * 10, "y" * 11, "\\" * 90, " " * 11)
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(ERRORS, min_size=LINKS, max_size=LINKS))
@example([" ", "\xa0", "\n", "", " x 1 ", "x" * 2000])
@example(list(CUT))
@example(["'a b' b 1", "'a' b b 1", "x/y b 1", "x/z b 1", '"q" 1', '"q" 2'])
def test_a_folded_error_finds_the_error(docora: Docora, errors: list[str]) -> None:
    if not docora.links():
        docora.add_links(LINKS, apps=LINKS)
    database = docora.actions().database
    for link, error in zip(docora.links(), errors, strict=True):
        docora.set_link(link, last_error=error)

    def apps_with(shown: str | None) -> dict[str, int]:
        which = LinkFilter(errors=[shown]) if shown else LinkFilter(no_error=True)
        return {id_: links for id_, _, links in links_by_group(database, LinkGroup.APP, which)}

    for group in count_by_error(database, LinkFilter(), 1, LINKS).rows:
        found = apps_with(group.error_message)
        assert sum(found.values()) >= group.links, (errors, group)
    for link, error in zip(docora.links(), errors, strict=True):
        [group] = count_by_error(database, LinkFilter(app_ids=[link.app_id]), 1, 9).rows
        shown = group.error_message
        assert shown == inert(shown) == shown.strip() != "" if shown is not None else not error
        assert link.app_id in apps_with(shown), (error, shown)
