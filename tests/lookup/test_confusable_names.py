"""Names and ids that look like each other, like options or like commands."""

import shlex
from typing import Literal
from unicodedata import normalize

from tests.support.docora import Docora
from tests.support.hostile_world import STRANGE_IDS
from tests.support.terminal import assert_inert

FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
CAFE = "Caf\u00e9 \u00c5land"


def test_a_name_is_found_in_either_normal_form_and_case(docora: Docora) -> None:
    app_id = docora.add_app(normalize("NFD", CAFE))
    docora.link(app_id, docora.add_repository(normalize("NFC", f"octo/{CAFE}")))
    for form in FORMS:
        name = normalize(form, CAFE.swapcase())
        result = docora.run("show", name, f"octo/{name}", "--json")
        assert (result.code, result.data["app_id"]) == (0, app_id), (form, result)
    near = docora.run("show", normalize("NFD", "Caf\u00e9 Aland"), "x")
    assert near.code == 3
    assert f"did you mean {shlex.quote(normalize('NFD', CAFE))}?\n" in near.stderr


def test_names_that_differ_only_in_normal_form_are_not_taken_for_each_other(docora: Docora) -> None:
    repository_id = docora.add_repository("octo/api")
    apps = [docora.add_app(normalize(form, CAFE)) for form in FORMS]
    links = [docora.link(app_id, repository_id) for app_id in apps]
    before = docora.dump()
    for form in FORMS:
        result = docora.run("retry", normalize(form, CAFE), "octo/api", "--json")
        assert (result.code, result.json["app_ids"]) == (2, apps)
    assert docora.dump() == before
    assert docora.run("retry", apps[1], "octo/api").code == 0
    assert [docora.was_reset(link) for link in links] == [False, True]


def test_an_app_named_like_an_option_can_be_named(docora: Docora) -> None:
    link = docora.link(docora.add_app("--yes"), docora.add_repository("--all/--json"))
    one = docora.run("retry", "--json", "--", "--yes", "--all/--json")
    assert (one.code, one.data["job_id"]) == (0, link.job_id), one
    docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
    bulk = docora.run("retry-all-failed", "--app=--yes", "--json")
    assert (bulk.code, bulk.data["total"]) == (0, 1)
    without = docora.run("resync", "--all", "--json", "--", "--yes")
    assert (without.code, without.json["code"]) == (2, "usage")


def test_ids_of_any_form_are_shown_and_refused_one_by_one_and_every_hint_can_be_pasted(
    docora: Docora,
) -> None:
    links = [
        docora.link(docora.add_app("Odd", text), docora.add_repository("octo/odd", text), "synced")
        for text in STRANGE_IDS[1:]
    ]
    before = docora.dump()
    for link in links:
        shown = docora.run("show", "--json", "--", *link.ids)
        assert (shown.code, shown.data["job_id"]) == (0, link.job_id)
        refused = docora.run("retry", "--", *link.ids)
        assert refused.code in {4, 6}, refused
        assert_inert(refused.stderr)
        if refused.code == 4:
            words = shlex.split(refused.stderr.split("docora-ops ")[1])
            assert words == ["resync", "--", *link.ids]
    assert docora.dump() == before
