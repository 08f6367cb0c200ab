"""From what a person types to the one app, repository or link that is meant."""

import pytest

from docora_ops.actions.lookup import resolve_app, resolve_repository
from docora_ops.errors import AmbiguousError, NotFoundError
from docora_ops.links import App, Repository
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.terminal import on_terminal

STRANGE_NAMES = [
    *("100% Acme", "Acme_Search", "Acme\\Search", "O'Brien's \"best\"", "[bold]markup[/bold]"),
    *("Ünïcode Größe 検索 💥", "'; DROP TABLE apps; --", "%s %(text)s {} {0}"),
    *("  spaces  at  the  ends  ", "two\nlines\tand a tab", "a" * 100),
]


@pytest.fixture
def actions(docora: Docora) -> Actions:
    return docora.actions()


def test_an_app_is_found_by_its_id_or_name_in_any_case(docora: Docora, actions: Actions) -> None:
    names = ["Acme Search", "Acme Search 2", "Acme", *STRANGE_NAMES]
    ids = {name: docora.add_app(name) for name in names}
    typed = {name: name for name in names} | {ids[name]: name for name in names}
    typed |= dict.fromkeys(["acme search", "aCME sEARCH"], "Acme Search")
    for text, name in typed.items():
        assert resolve_app(actions.database, text) == App(ids[name], name), text
    docora.add_app("By id", "app_abc")
    for text in ("APP_ABC", "_", "Acme%", "Acme_earch", "", " ", "Acme Search  ", "."):
        with pytest.raises(NotFoundError):
            resolve_app(actions.database, text)


def test_the_three_nearest_names_are_suggested(docora: Docora, actions: Actions) -> None:
    for name in ("Acme Search", "Borealis", *(f"Tin Robot {number}" for number in range(9))):
        docora.add_app(name)
    for text, hint, names in (
        ("search", "did you mean 'Acme Search'?", 1),
        ("ACME SEARCH!", "did you mean 'Acme Search'?", 1),
        ("Tin Robots 4", "did you mean 'Tin Robot 4' or ", 3),
        ("zzz", "check the spelling, or give the id", 0),
    ):
        with pytest.raises(NotFoundError) as error:
            resolve_app(actions.database, text)
        found = error.value.hint or ""
        assert found.startswith(hint)
        assert found.count("'") == 2 * names


TYPED_URLS = [
    *("https://github.com/octo/api", "https://github.com/octo/api.git/"),
    *("http://github.com/octo/api//", "HTTPS://GITHUB.COM/OCTO/API.GIT"),
]
NOT_ENOUGH = [
    *("api", "octo", "octo/", "/api", "octo/ap_", "octo/%", "%", "", "https://"),
    *("https://github.com/octo", "https://github.com/", "https://evil.example/octo/api"),
    *("https://github.com/octo/api%", "https://github.com/octo/ap_", "ftp://github.com/octo/api"),
]


@pytest.fixture
def app(docora: Docora) -> App:
    return App(docora.add_app("Acme Search"), "Acme Search")


def test_a_repository_is_found_by_its_id_its_name_and_any_spelling_of_its_url_but_by_no_part(
    docora: Docora, actions: Actions, app: App
) -> None:
    repository_id = docora.add_repository("octo/api", url="http://GitHub.com/Octo/API.git")
    docora.link(app.app_id, repository_id)
    docora.add_repository("octo/api", url="https://github.com/octo/api")  # of no app
    for name in ("octo/api2", "octo/ap", "other/api"):
        docora.link(app.app_id, docora.add_repository(name, url=f"https://github.com/{name}"))
    meant = Repository(repository_id, "octo", "api")
    for text in (repository_id, "octo/api", "Octo/API", *TYPED_URLS):
        assert resolve_repository(actions.database, [app], text) == meant, text
    for text in NOT_ENOUGH:
        with pytest.raises(NotFoundError):
            resolve_repository(actions.database, [app], text)


def test_a_name_is_literal_and_an_id_wins(docora: Docora, actions: Actions, app: App) -> None:
    ids = {f"octo/{name}": docora.add_repository(f"octo/{name}") for name in STRANGE_NAMES}
    docora.add_repository("repo/1")
    ids["repo/1"] = docora.add_repository("octo/api", "repo/1")
    for name, repository_id in ids.items():
        docora.link(app.app_id, repository_id)
        found = resolve_repository(actions.database, [app], name)
        assert found.repository_id == repository_id


def test_the_url_tells_repositories_of_one_name_apart_unless_it_is_spelled_in_two_ways(
    docora: Docora, actions: Actions, app: App
) -> None:
    urls = ("https://github.com/octo/api", "https://github.example/octo/api")
    first, second = (docora.add_repository("octo/api", url=url) for url in urls)
    for url, repository_id in zip(urls, (first, second), strict=True):
        docora.link(app.app_id, repository_id)
        assert resolve_repository(actions.database, [app], url).repository_id == repository_id
    third = docora.add_repository("octo/api", url=f"{urls[0]}.git")
    docora.link(app.app_id, third)
    with pytest.raises(AmbiguousError) as error:
        resolve_repository(actions.database, [app], urls[0])
    assert error.value.details == {"repository_ids": sorted([first, third])}


# An app by the beginning of its name or id

NOTES = "Tidewater Notes"
OF_MANY = [["retry-all-failed", "--app", "tide"], ["resync", "tide", "--all"], ["repair", "tide"]]


def test_the_beginning_of_one_name_or_id_finds_the_app(docora: Docora, actions: Actions) -> None:
    database = actions.database
    apps = {
        name: App(docora.add_app(name, app_id), name)
        for name, app_id in {
            NOTES: "app_1a",
            "Acme": "app_2b",
            "Acme Search": "app_3c",
            "100% Sure": "app_4d",
            "back\\slash": "app_6f",
            "Élan Café": "app_8b",
        }.items()
    }
    for text, name in {
        "tidewater": NOTES,
        "T": NOTES,
        "app_1": NOTES,
        "acme": "Acme",
        "ACME ": "Acme Search",
        "100%": "100% Sure",
        "back\\": "back\\slash",
        "élan": "Élan Café",
        "éLAN CAFÉ": "Élan Café",
    }.items():
        assert resolve_app(database, text) == apps[name], text
    for text in ("", " ", "APP_1", "idewater", "tide%", "10_%", "_"):
        with pytest.raises(NotFoundError):
            resolve_app(database, text)


def test_a_beginning_of_several_lists_some_and_takes_none(docora: Docora) -> None:
    ids = [docora.add_app(f"Acme {number:02}") for number in range(12)]
    with pytest.raises(AmbiguousError, match="of more than 10 apps begin with 'acme'") as error:
        resolve_app(docora.actions().database, "acme")
    assert error.value.details == {"app_ids": ids[:10]}


@pytest.mark.slow
def test_a_beginning_is_enough_for_many_links_only_where_a_person_is_asked(docora: Docora) -> None:
    """In cron, the app that was meant may be gone, and its name begin another one's."""
    link = docora.link(docora.add_app(NOTES), docora.add_repository("octo/api"))
    other = docora.link(docora.add_app("Acme Search"), docora.add_repository("octo/web"))
    before = docora.dump()
    for command in OF_MANY:
        assert docora.run(*command, "--dry-run").code == 0
        result = docora.run(*command, "--yes").ended(3)
        assert "only if the command asks for confirmation\n" in result.stderr
        assert result.stderr.endswith(f"Hint: did you mean '{NOTES}'?\n")
    assert docora.dump() == before
    for change in (("retry", "tide", "octo/api"), *OF_MANY):
        docora.redis.flushdb()
        docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
        code, shown = on_terminal(docora, change, answer=b"y\n")
        assert code == 0, shown
        assert NOTES in shown, change
        assert not docora.was_reset(other)
        if change[0] != "repair":
            assert docora.was_reset(link), change
            [entry, *_] = docora.run("history", "--json").data
            assert NOTES in str(entry["selection"])
