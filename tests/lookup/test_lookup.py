"""From what a person types to the one app, repository or link that is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from docora_ops.actions.lookup import resolve_app, resolve_link, resolve_repository
from docora_ops.errors import AmbiguousError, NotFoundError
from docora_ops.links import App, Repository
from tests.support.actions import Actions
from tests.support.docora import Docora

STRANGE_NAMES = [
    "100% Acme",
    "Acme_Search",
    "Acme\\Search",
    "O'Brien's \"best\"",
    "Ünïcode Größe 検索 💥",
    "'; DROP TABLE apps; --",
    "%s %(text)s {} {0}",
    "  spaces  at  the  ends  ",
    "[bold]markup[/bold]",
    "two\nlines\tand a tab",
    "a" * 100,
]


@pytest.fixture
def actions(docora: Docora) -> Actions:
    return docora.actions()


def hint_of(ask: Callable[[], object]) -> str:
    """The hint of the NotFoundError that asking raises."""
    with pytest.raises(NotFoundError) as error:
        ask()
    return error.value.hint or ""


# Apps


def test_an_app_is_found_by_its_id(docora: Docora, actions: Actions) -> None:
    app_id = docora.add_app("Acme Search")
    docora.add_app("Borealis")
    assert resolve_app(actions.database, app_id) == App(app_id, "Acme Search")


@pytest.mark.parametrize("text", ["Acme Search", "acme search", "ACME SEARCH", "aCME sEARCH"])
def test_an_app_is_found_by_its_name_case_aside(
    docora: Docora, actions: Actions, text: str
) -> None:
    app_id = docora.add_app("Acme Search")
    docora.add_app("Acme Search 2")
    docora.add_app("Acme")
    assert resolve_app(actions.database, text) == App(app_id, "Acme Search")


def test_an_id_is_not_read_case_aside(docora: Docora, actions: Actions) -> None:
    docora.add_app("Acme Search", "app_abc")
    with pytest.raises(NotFoundError):
        resolve_app(actions.database, "APP_ABC")


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=ascii)
def test_a_name_is_taken_literally(docora: Docora, actions: Actions, name: str) -> None:
    app_id = docora.add_app(name)
    for other in STRANGE_NAMES:
        if other != name:
            docora.add_app(other)
    assert resolve_app(actions.database, name) == App(app_id, name)


@pytest.mark.parametrize("text", ["%", "_", "Acme%", "Acme_earch", "", " ", "Acme Search ", "."])
def test_nothing_in_a_name_stands_for_other_characters(
    docora: Docora, actions: Actions, text: str
) -> None:
    docora.add_app("Acme Search")
    with pytest.raises(NotFoundError):
        resolve_app(actions.database, text)


def test_an_id_wins_over_another_app_of_that_name(docora: Docora, actions: Actions) -> None:
    meant = docora.add_app("Acme Search")
    docora.add_app(meant)
    docora.add_app(meant.upper())
    assert resolve_app(actions.database, meant).app_id == meant


def test_several_apps_of_one_name_are_ambiguous_and_their_ids_are_listed(
    docora: Docora, actions: Actions
) -> None:
    ids = [docora.add_app(name) for name in ("Acme", "ACME", "acme")]
    docora.add_app("Acme Search")
    with pytest.raises(AmbiguousError) as error:
        resolve_app(actions.database, "Acme")
    assert error.value.details == {"app_ids": sorted(ids)}
    assert all(app_id in error.value.message for app_id in ids)
    assert error.value.message.startswith("3 apps are named 'Acme'")
    assert resolve_app(actions.database, ids[1]) == App(ids[1], "ACME")


@pytest.mark.parametrize("text", ["Acme Serach", "acme", "ACME SEARCH!", "AcmeSearch"])
def test_the_nearest_names_are_suggested(docora: Docora, actions: Actions, text: str) -> None:
    docora.add_app("Acme Search")
    docora.add_app("Borealis")
    hint = hint_of(lambda: resolve_app(actions.database, text))
    assert "did you mean 'Acme Search'" in hint
    assert "Borealis" not in hint


def test_at_most_three_names_are_suggested_the_nearest_first(
    docora: Docora, actions: Actions
) -> None:
    for number in range(9):
        docora.add_app(f"Acme Search {number}")
    docora.add_app("Acme Searches")
    hint = hint_of(lambda: resolve_app(actions.database, "Acme Searche"))
    assert hint.startswith("did you mean 'Acme Searches' or ")
    assert hint.count("Acme Search") == 3


def test_where_nothing_is_near_nothing_is_suggested(docora: Docora, actions: Actions) -> None:
    docora.add_app("Acme Search")
    assert hint_of(lambda: resolve_app(actions.database, "zzz")) == (
        "check the spelling, or give the app id"
    )


def test_an_empty_docora_has_no_app(actions: Actions) -> None:
    with pytest.raises(NotFoundError, match="no app 'Acme'"):
        resolve_app(actions.database, "Acme")


# Repositories


@pytest.fixture
def app(docora: Docora) -> App:
    return App(docora.add_app("Acme Search"), "Acme Search")


def test_a_repository_is_found_by_its_id(docora: Docora, actions: Actions, app: App) -> None:
    repository_id = docora.add_repository("octo/api")
    docora.add_repository("octo/web")
    assert resolve_repository(actions.database, app, repository_id) == Repository(
        repository_id, "octo", "api"
    )


STORED_URLS = [
    "https://github.com/octo/api",
    "https://github.com/octo/api.git",
    "https://github.com/octo/api/",
    "https://github.com/Octo/API",
    "https://GitHub.com/octo/api.git",
    "http://github.com/octo/api",
]
TYPED_URLS = [
    "https://github.com/octo/api",
    "https://github.com/octo/api.git",
    "https://github.com/octo/api/",
    "https://github.com/octo/api.git/",
    "https://github.com/octo/api//",
    "http://github.com/octo/api",
    "HTTPS://GITHUB.COM/OCTO/API.GIT",
]


@pytest.mark.parametrize("stored", STORED_URLS)
def test_a_repository_is_found_by_any_spelling_of_its_url(
    docora: Docora, actions: Actions, app: App, stored: str
) -> None:
    repository_id = docora.add_repository("octo/api", url=stored)
    docora.add_repository("octo/api2", url="https://github.com/octo/api2")
    docora.add_repository("octo/ap", url="https://github.com/octo/ap")
    docora.add_repository("other/api", url="https://github.com/other/api")
    for typed in TYPED_URLS:
        found = resolve_repository(actions.database, app, typed)
        assert found.repository_id == repository_id, typed


@pytest.mark.parametrize("text", ["octo/api", "Octo/API", "OCTO/api"])
def test_a_repository_is_found_by_owner_and_name_case_aside(
    docora: Docora, actions: Actions, app: App, text: str
) -> None:
    repository_id = docora.add_repository("octo/api")
    docora.add_repository("octo/api-v2")
    assert resolve_repository(actions.database, app, text).repository_id == repository_id


@pytest.mark.parametrize(
    "text",
    [
        "api",
        "octo",
        "octo/",
        "/api",
        "octo/ap_",
        "octo/%",
        "%",
        "",
        "https://github.com/octo",
        "https://github.com/",
        "https://",
        "https://evil.example/octo/api",
        "https://github.com/octo/api%",
        "https://github.com/octo/ap_",
        "ftp://github.com/octo/api",
    ],
)
def test_part_of_a_name_or_another_address_is_not_enough(
    docora: Docora, actions: Actions, app: App, text: str
) -> None:
    docora.add_repository("octo/api", url="https://github.com/octo/api")
    with pytest.raises(NotFoundError):
        resolve_repository(actions.database, app, text)


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=ascii)
def test_a_repositorys_name_is_taken_literally(
    docora: Docora, actions: Actions, app: App, name: str
) -> None:
    ids = {other: docora.add_repository(f"octo/{other}") for other in STRANGE_NAMES}
    assert resolve_repository(actions.database, app, f"octo/{name}") == Repository(
        ids[name], "octo", name
    )


def test_an_id_wins_over_another_repository_of_that_name(
    docora: Docora, actions: Actions, app: App
) -> None:
    meant = docora.add_repository("octo/api", "repo/1")
    docora.add_repository("repo/1")
    assert resolve_repository(actions.database, app, "repo/1").repository_id == meant


def add_repositories_of_one_name(docora: Docora) -> Iterable[str]:
    return [
        docora.add_repository("octo/api", url="https://github.com/octo/api"),
        docora.add_repository("Octo/api", url="https://github.example/octo/api"),
    ]


def test_several_repositories_of_one_name_are_ambiguous_and_their_ids_are_listed(
    docora: Docora, actions: Actions, app: App
) -> None:
    ids = add_repositories_of_one_name(docora)
    with pytest.raises(AmbiguousError) as error:
        resolve_repository(actions.database, app, "octo/api")
    assert error.value.details == {"repository_ids": sorted(ids)}
    assert all(repository_id in error.value.message for repository_id in ids)
    for repository_id in ids:
        assert (
            resolve_repository(actions.database, app, repository_id).repository_id == repository_id
        )


def test_the_url_tells_repositories_of_one_name_apart(
    docora: Docora, actions: Actions, app: App
) -> None:
    first, second = add_repositories_of_one_name(docora)
    for url, repository_id in {
        "https://github.com/octo/api": first,
        "https://github.example/octo/api": second,
    }.items():
        assert resolve_repository(actions.database, app, url).repository_id == repository_id


def test_spellings_of_one_url_that_are_two_repositories_are_ambiguous(
    docora: Docora, actions: Actions, app: App
) -> None:
    ids = [
        docora.add_repository("octo/api", url="https://github.com/octo/api"),
        docora.add_repository("octo/api", url="https://github.com/octo/api.git"),
    ]
    with pytest.raises(AmbiguousError) as error:
        resolve_repository(actions.database, app, "https://github.com/octo/api")
    assert error.value.details == {"repository_ids": sorted(ids)}


def test_only_repositories_of_the_app_are_suggested(
    docora: Docora, actions: Actions, app: App
) -> None:
    docora.link(app.app_id, docora.add_repository("octo/api-v2"))
    docora.add_repository("octo/api-v3")
    hint = hint_of(lambda: resolve_repository(actions.database, app, "octo/api"))
    assert hint == "did you mean octo/api-v2?"


def test_a_mistyped_url_gets_the_nearest_name_suggested(
    docora: Docora, actions: Actions, app: App
) -> None:
    docora.link(app.app_id, docora.add_repository("octo/api"))
    hint = hint_of(lambda: resolve_repository(actions.database, app, "https://github.com/octo/apo"))
    assert "octo/api" in hint


# Links


def test_a_link_is_found_with_all_that_its_screen_and_job_need(
    docora: Docora, actions: Actions
) -> None:
    app_id = docora.add_app("Acme Search")
    repository_id = docora.add_repository("octo/api", url="https://github.com/octo/api")
    docora.link(app_id, repository_id, retry_count=3, last_error="HTTP 500")
    link = resolve_link(actions.database, "acme search", "https://github.com/Octo/API.git")
    assert (link.ref.app_id, link.ref.repository_id) == (app_id, repository_id)
    assert (link.status, link.retry_count, link.error_message) == ("failed", 3, "HTTP 500")
    assert link.payload.base_url == "https://acme.example/docora"
    assert link.circuit_open_until is None


def test_a_repository_that_the_app_is_not_linked_to_is_not_found_in_docoras_words(
    docora: Docora, actions: Actions
) -> None:
    app_id = docora.add_app("Acme Search")
    docora.link(app_id, docora.add_repository("octo/api-v2"))
    docora.add_repository("octo/api")
    with pytest.raises(NotFoundError) as error:
        resolve_link(actions.database, "Acme Search", "octo/api")
    assert error.value.message.startswith("App-repository link not found")
    assert "'octo/api'" in error.value.message
    assert error.value.hint == "did you mean octo/api-v2?"


def test_looking_up_changes_nothing(docora: Docora, actions: Actions) -> None:
    link = docora.add_link()
    before = docora.dump()
    resolve_link(actions.database, link.app_id, link.repository_id)
    with pytest.raises(NotFoundError):
        resolve_link(actions.database, link.app_id, "nothing/like-it")
    assert docora.dump() == before
