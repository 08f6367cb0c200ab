"""Errors that differ only in paths, numbers and ids fold into one; others do not.

A line of `--group-by error`, given to `--error`, finds all links that it stands for.
"""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from docora_ops.actions.lookup import LinkChoice, choose_links
from docora_ops.database.link_reports import error_groups, links_by_group
from docora_ops.error_groups import LONGEST, ErrorGroup, fold, group_errors, typable
from docora_ops.links import LinkFilter, LinkGroup
from docora_ops.text import inert
from tests.support.actions import Actions
from tests.support.docora import Docora

UNKNOWN_HOST = "Could not resolve host: github.com"
ALIKE = {
    "HTTP 500": [
        "HTTP 500 on created src/index.ts",
        "HTTP 500 on updated my docs/read me (2).md",
        "Notification failed for created a: b:c: HTTP 500",
        "Notification failed for deleted line\nline: HTTP 500",
        "HTTP 500",
    ],
    "HTTP 301: moved to https://new.example/hook": [
        "HTTP 301: moved to https://new.example/hook on created a/b: a POST follows only 307"
    ],
    "getaddrinfo ENOTFOUND acme.example": [
        "Notification failed for deleted LICENSE: getaddrinfo ENOTFOUND acme.example"
    ],
    "connect ECONNREFUSED *": [
        "Notification failed for deleted a b: connect ECONNREFUSED 203.0.113.24:443",
        "connect ECONNREFUSED 203.0.113.25:443 on created a",
    ],
    "Notification failed for created *": ["Notification failed for created a path that is cut o"],
    "fatal: unable to access *: The requested URL returned error: 503": [
        "fatal: unable to access 'https://github.com/a/b/': The requested URL returned error: 503",
        "fatal: unable to access https://u:p@h:1/x?y=z: The requested URL returned error: 503",
    ],
    "connect ETIMEDOUT *": ["connect ETIMEDOUT 10.0.0.1:443", "connect ETIMEDOUT ::1/128"],
    "*: No such file": ["C:\\a\\b.txt: No such file", "/etc/x: No such file"],
    "job * gone": [
        "job app_04c2f7a91be85d3360e1a7c4-repo_0a7d52c8e1f94b3d60a2c5f7 gone",
        "job 123e4567-e89b-12d3-a456-426614174000 gone",
        "job 7 gone",
    ],
    "lost at *": ["lost at 2026-01-01T00:00:00.123Z", "lost at 12:30"],
    "would be overwritten: *": ["would be overwritten: a/b, c/d, e.txt"],
}


def test_errors_of_one_kind_become_the_same_text() -> None:
    for folded, errors in ALIKE.items():
        assert {fold(typable(error)) for error in errors} == {folded}


@pytest.mark.parametrize(
    "error",
    [
        "",
        "can't be decrypted: it isn't in the form that we know",
        "HTTP 418",
        "no app for the key sha256",
    ],
)
def test_what_tells_kinds_apart_stays(error: str) -> None:
    assert fold(typable(error)) == error


@pytest.mark.parametrize(
    ("errors", "shown"),
    [
        (
            [f"fatal: unable to access 'https://a.b/{n}/': {UNKNOWN_HOST}" for n in "ab"],
            f"fatal: unable to access *: {UNKNOWN_HOST}",
        ),
        (["connect ECONNREFUSED 203.0.113.24:443"] * 2, "connect ECONNREFUSED 203.0.113.24:443"),
        (
            ["refused by 10.0.0.1 on created a", "refused by 10.0.0.1 on created b"],
            "refused by 10.0.0.1",
        ),
        (["refused by 10.0.0.1\n on created a"] * 2, "refused by 10.0.0.1*"),
        (["y " * 200 + "1", "y " * 200 + "2"], " ".join("y" * (LONGEST // 2)) + "*"),
        ([f"denied: ghp_{digit * 20}" for digit in "12"], "denied: ***"),
    ],
)
def test_an_error_that_all_links_share_is_not_folded(errors: list[str], shown: str) -> None:
    [group] = group_errors(("app", "Acme", error[: LONGEST + 1], 1) for error in errors)
    assert (group.error_message, group.links, group.apps) == (shown, 2, 1)


def test_a_group_counts_its_files_and_names_the_apps_with_most_links() -> None:
    [group] = group_errors(
        [
            *((f"app_{n}", f"App {n}", "HTTP 500 on created a", n) for n in range(1, 5)),
            ("app_2", "App 2", "Notification failed for updated b: HTTP 500", 3),
            ("app_9", None, "HTTP 500", 9),
        ]
    )
    names = ["App 2", "App 4", "App 3"]
    assert group == ErrorGroup("HTTP 500", links=22, apps=5, files=2, app_names=names)


PIECES = (
    *("HTTP 502 on created ", "Notification failed for created ", ": ", " ", "*", "%", "_", "\\"),
    *("\\%", "'", '"', "\n", "\t", "\x1b[2J", "\u202e", "\u200b", "\xa0", "\u3000", "\u00e9"),
    *("a/b.ts", "https://u:p@h.example/x?token=abc", "ghp_0123456789abcdefABCD", "word", "12"),
    *("x " * (LONGEST // 2), "y" * (LONGEST - 8), "\u6f22\u5b57", "\U000e0101", "\uffff"),
    *("HTTP 502", "http 502", " on updated ", " on deleted", "HTTP 502: moved to https://a.b/c"),
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
ERRORS = st.lists(st.sampled_from(PIECES) | TEXTS, max_size=8).map("".join)
LINKS = 6
CUT = tuple(
    "x" * (LONGEST - 10) + end
    for end in (" ghp_01", " ghp_0123456789abcdefABCD", "y" * 10, "y" * 11, "\\" * 90, " " * 11)
)
BOTH_WORKERS = (
    "HTTP 500 on created a",
    "Notification failed for updated b: HTTP 500",
    "HTTP 500",
    "HTTP 5000 on created a",
    "git: HTTP 500 from a mirror",
    "\x1b[2J on deleted\x1f",
)


@pytest.fixture
def actions(docora: Docora) -> Actions:
    return docora.actions()


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(ERRORS, min_size=LINKS, max_size=LINKS))
@example([" ", "\xa0", "\n", "", " x 1 ", "x" * 2000])
@example(list(CUT))
@example(["'a b' b 1", "'a' b b 1", "x/y b 1", "x/z b 1", '"q" 1', '"q" 2'])
@example(list(BOTH_WORKERS))
def test_a_group_is_chosen_by_its_text_and_excluded_by_it(
    docora: Docora, actions: Actions, errors: list[str]
) -> None:
    if not docora.links():
        docora.add_links(LINKS, apps=LINKS)
    database, links = actions.database, docora.links()
    for link, error in zip(links, errors, strict=True):
        docora.set_link(link, last_error=error)

    def apps_with(**choice: Any) -> set[str]:
        which, _ = choose_links(actions.docora, LinkChoice(**choice))
        return {id_ for id_, *_ in links_by_group(database, LinkGroup.APP, which)}

    every_app, members = {link.app_id for link in links}, defaultdict[str | None, set[str]](set)
    for link, error in zip(links, errors, strict=True):
        members[fold(typable(error[: LONGEST + 1])) if error else None].add(link.app_id)
    chosen = []
    for group in error_groups(database, LinkFilter()):
        shown = group.error_message
        if shown is None:
            found = apps_with(no_error=True)
        else:
            assert shown == inert(shown) == shown.strip() != ""
            found = apps_with(errors=[shown])
            assert apps_with(exclude_errors=[shown]) == every_app - found
        chosen.append((group.links, found))
    for apps in members.values():
        assert any(len(apps) == links and apps <= found for links, found in chosen), errors
    for link, error in zip(links, errors, strict=True):
        [group] = error_groups(database, LinkFilter(app_ids=[link.app_id]))
        if group.error_message:
            found = apps_with(errors=[group.error_message], apps=[link.app_id])
            assert found == {link.app_id}, error
