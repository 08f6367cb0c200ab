"""The values that are offered for APP, REPO and OPERATION_ID."""

from __future__ import annotations

from pathlib import Path

import pytest

from docora_ops.bulk import Progress
from docora_ops.queue import ProgressStore
from tests.completion.offers import answer, offers
from tests.support.docora import Docora
from tests.support.hostile_texts import EVIL

NOTHING_SET = {"DATABASE_URL": None, "REDIS_URL": None}


def test_apps_are_offered_by_the_beginning_of_their_name_case_aside(docora: Docora) -> None:
    for name in ("Acme Search", "ACME Two", "Über uns", "Tidewater"):
        docora.add_app(name)
    assert offers(docora, "retry", "acme") == ["Acme Search", "ACME Two"]
    assert offers(docora, "retry", "Acme S") == ["Acme Search"]
    assert offers(docora, "show", "über") == ["Über uns"]
    assert offers(docora, "show", "u\u0308ber") == ["Über uns"]
    assert offers(docora, "show", "Search") == []
    assert offers(docora, "show", "%") == []
    everything = ["ACME Two", "Acme Search", "Tidewater", "Über uns"]
    assert sorted(offers(docora, "failed", "--app", "")) == everything
    assert offers(docora, "failed", "--app=tide") == ["--app=Tidewater"]
    assert offers(docora, "retry-all-failed", "--exclude-app", "tide") == ["Tidewater"]


def test_ids_are_offered_where_no_name_begins_so(docora: Docora) -> None:
    app = docora.add_app("Acme", "app_00000000000000000000aaaa")
    docora.add_app("App of apps", "app_00000000000000000000bbbb")
    assert offers(docora, "show", "app") == ["App of apps"]
    assert offers(docora, "show", "app_00000000000000000000a") == [app]
    assert offers(docora, "show", "APP_00000000000000000000A") == [app]
    secret = docora.add_app("https://me:geheim@acme.test", "app_00000000000000000000cccc")
    assert answer(docora, "show", secret).endswith(f"\n{secret}:https\\://***@acme.test\n")
    repository = docora.add_repository("octo/api", "repo_00000000000000000000aaaa")
    docora.link(app, repository)
    assert offers(docora, "show", app, "repo_") == [repository]


def test_of_a_shared_name_the_ids_are_offered_with_the_name(docora: Docora) -> None:
    ids = [docora.add_app(name) for name in ("Acme", "ACME")]
    docora.add_app("Acme Search")
    assert offers(docora, "show", "ac") == [*ids, "Acme Search"]
    assert answer(docora, "show", "ac").startswith(f"list\n{ids[0]}:Acme\n{ids[1]}:ACME\n")


def test_repositories_are_those_of_the_app_for_retry_failed_links_first(docora: Docora) -> None:
    app = docora.add_app("Acme Search")
    for name, status in (("octo/a", "synced"), ("octo/b", "failed"), ("octo/c", "synced")):
        docora.link(app, docora.add_repository(name), status)
    other = docora.add_link("failed")
    assert offers(docora, "retry", "acme search", "") == ["octo/b", "octo/a", "octo/c"]
    assert offers(docora, "resync", "Acme Search", "OCTO/") == ["octo/a", "octo/b", "octo/c"]
    assert offers(docora, "repair", "--dry-run", app, "octo/c") == ["octo/c"]
    assert len(offers(docora, "show", other.app_id, "octo/")) == 1
    assert answer(docora, "show", "nobody", "octo/") == ""
    assert offers(docora, "show", app, "octo/a", "") == []


def test_at_most_some_dozens_are_offered(docora: Docora) -> None:
    docora.add_links(1000)
    assert len(offers(docora, "show", "App 1", "octo/")) == 50
    assert len(offers(docora, "show", "App 1", "octo/repo99")) == 11


def test_operations_are_offered_by_the_beginning_of_their_id(docora: Docora) -> None:
    store = ProgressStore(docora.redis)
    ids = [f"bulk_{digit * 16}" for digit in "ab"]
    for operation_id in ids:
        store.write(Progress(operation_id, 2, 1, 1, 0, cancelled=False))
    for command in ("progress", "cancel"):
        assert sorted(offers(docora, command, "")) == ids
        assert offers(docora, command, "bulk_b", DATABASE_URL=None) == ids[1:]


def test_a_name_that_can_not_be_typed_is_offered_by_its_id(docora: Docora) -> None:
    ids = [docora.add_app(name) for name in (EVIL[:100], "-x", "two\nlines", "https://a:b@c/")]
    assert sorted(offers(docora, "show", "")) == sorted(ids)
    assert "\x1b" not in answer(docora, "show", "")


@pytest.mark.parametrize("place", ["before", "after", "variable"])
def test_settings_come_from_the_env_file(docora: Docora, tmp_path: Path, place: str) -> None:
    docora.add_app("Acme Search")
    file = tmp_path / "docora.env"
    file.write_text(f"DATABASE_URL={docora.database_url}\n")
    env = {**NOTHING_SET, "HOME": str(tmp_path)}
    if place == "before":
        assert offers(docora, "--env-file", "~/docora.env", "show", "a", **env) == ["Acme Search"]
    elif place == "after":
        option = "--env-file=$HOME/docora.env"
        assert offers(docora, "show", option, "a", **env) == ["Acme Search"]
    else:
        env["DOCORA_OPS_ENV_FILE"] = str(file)
        assert offers(docora, "show", "a", **env) == ["Acme Search"]
    assert answer(docora, "show", "--env-file", "") == "files\n"
    assert answer(docora, "--env-file=x") == "files\n"
