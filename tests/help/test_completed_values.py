"""The values that are offered for APP and REPO."""

import shlex
import socket
from pathlib import Path

from tests.support.docora import Docora, Result
from tests.support.hostile_texts import EVIL
from tests.support.proxy import patience

NOTHING_SET = {"DATABASE_URL": None, "REDIS_URL": None}
LONG = {f"DOCORA_OPS_{name}_TIMEOUT": "3600" for name in ("CONNECT", "STATEMENT", "LOCK")}


HOSTILE = ["https://a:b@c/", "$(x) p", "`x`", "; x", "x<(x)", r"x\$(x)", "q*", "it's", '"', "a\\"]
ATTEMPTS = 10
"""A completion gives up in time on a machine that is busy with other tests."""


def answer(docora: Docora, *words: str, **env: str | None) -> Result:
    """The whole answer for the last word."""
    asked = {
        "_DOCORA_OPS_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": shlex.join(["docora-ops", *words]),
    }
    return docora.run(env={**asked, **env})


def offers(docora: Docora, *words: str, **env: str | None) -> list[str]:
    """The values for the last word, without their descriptions."""
    answers = (answer(docora, *words, **env).stdout for _ in range(ATTEMPTS))
    lines = next(filter(None, answers)).splitlines()
    return [line.partition("\t")[0] for line in lines if line]


def test_apps_are_offered_by_the_beginning_of_their_name_or_id(docora: Docora) -> None:
    for name in ("Acme Search", "Acme Two", "Über uns", "App of apps"):
        docora.add_app(name)
    app = docora.add_app("Tidewater", "app_00000000000000000000aaaa")
    assert offers(docora, "retry", "Acme") == ["Acme Search", "Acme Two"]
    assert offers(docora, "retry", "Acme S") == ["Acme Search"]
    assert offers(docora, "show", "Ü") == ["Über uns"]
    assert offers(docora, "show", "aCME t") == ["aCME two"]  # names are case-insensitive
    assert offers(docora, "show", "Search") == []
    assert offers(docora, "show", "%") == []
    everything = ["Acme Search", "Acme Two", "App of apps", "Tidewater", "Über uns"]
    assert sorted(offers(docora, "failed", "--app", "")) == everything
    assert offers(docora, "failed", "--app=Tide") == ["Tidewater"]
    assert offers(docora, "retry-all-failed", "--exclude-app", "Tide") == ["Tidewater"]
    assert offers(docora, "show", "app_00000000000000000000a") == [app]


def test_repositories_are_those_of_the_app(docora: Docora) -> None:
    app = docora.add_app("Acme Search")
    for name, status in (("octo/a", "synced"), ("octo/b", "failed"), ("octo/c", "synced")):
        docora.link(app, docora.add_repository(name), status)
    other = docora.add_link("failed")
    assert offers(docora, "retry", "acme search", "") == ["octo/a", "octo/b", "octo/c"]
    assert offers(docora, "resync", "Acme Search", "octo/") == ["octo/a", "octo/b", "octo/c"]
    assert offers(docora, "repair", "--dry-run", app, "octo/c") == ["octo/c"]
    assert len(offers(docora, "show", other.app_id, "octo/")) == 1
    assert answer(docora, "show", "nobody", "octo/").stdout == ""
    assert offers(docora, "show", app, "octo/a", "") == []


def test_a_name_that_can_not_be_typed_is_not_offered_but_its_id_is(docora: Docora) -> None:
    ids = [docora.add_app(name) for name in (EVIL[:100], "-x", "two\nlines", *HOSTILE)]
    assert sorted(offers(docora, "show", "")) == sorted(ids)


def test_settings_come_from_the_env_file(docora: Docora, tmp_path: Path) -> None:
    docora.add_app("Acme Search")
    file = tmp_path / "docora.env"
    file.write_text(f"DATABASE_URL={docora.database_url}\n")
    env = {**NOTHING_SET, "HOME": str(tmp_path)}
    option = "--env-file=~/docora.env"
    assert offers(docora, "show", option, "A", **env) == ["Acme Search"]


def test_commands_and_topics_are_offered_to_help(docora: Docora) -> None:
    assert offers(docora, "help", "re", **NOTHING_SET) == [
        *("recipes", "release", "repair", "report", "resume", "resync", "retry"),
        "retry-all-failed",
    ]
    assert "exit-codes" in offers(docora, "help", "", **NOTHING_SET)


def test_an_option_and_its_help_are_one_line_however_narrow_the_terminal(docora: Docora) -> None:
    lines = answer(docora, "failed", "--", COLUMNS="40", **NOTHING_SET).stdout.splitlines()
    assert len(lines) > 10
    assert all(line.startswith("--") for line in lines), lines


def test_whatever_goes_wrong_nothing_is_offered_and_the_shell_does_not_wait(docora: Docora) -> None:
    docora.link(docora.add_app("Acme"), docora.add_repository("octo/api"))
    assert offers(docora, "show", "Acme", "o") == ["octo/api"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(patience())
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        for env in (
            {"DATABASE_URL": f"postgres://{where}/x", "REDIS_URL": f"redis://{where}", **LONG},
            {"DATABASE_URL": "nonsense", "REDIS_URL": "nonsense"},
        ):
            assert answer(docora, "show", "Acme", "o", **env).stdout == "", env
        silent.accept()[0].close()  # it was asked
