"""An app by the beginning of its name or id."""

from unicodedata import normalize

import pytest

from docora_ops.actions.lookup import resolve_app
from docora_ops.errors import AmbiguousError, NotFoundError
from docora_ops.links import App
from tests.support.docora import Docora
from tests.support.terminal import on_terminal

NOTES = "Tidewater Notes"
OF_MANY = [["retry-all-failed", "--app", "tide"], ["resync", "tide", "--all"], ["repair", "tide"]]


def test_the_beginning_of_one_name_or_id_finds_the_app(docora: Docora) -> None:
    database = docora.actions().database
    apps = {
        name: App(docora.add_app(name, app_id), name)
        for name, app_id in {
            NOTES: "app_1a",
            "Acme": "app_2b",
            "Acme Search": "app_3c",
            "100% Sure": "app_4d",
            "back\\slash": "app_6f",
            normalize("NFD", "Élan Café"): "app_8b",
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
        normalize("NFC", "élan"): normalize("NFD", "Élan Café"),
        normalize("NFC", "éLAN CAFÉ"): normalize("NFD", "Élan Café"),
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
        result = docora.run(*command, "--yes")
        assert result.code == 3, result
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
