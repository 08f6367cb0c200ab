"""A protected target: a mass change needs its name, typed or given."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from psycopg import sql

from docora_ops import actions
from docora_ops.errors import UsageError
from docora_ops.settings import load_settings
from tests.connections.conftest import Write
from tests.support.docora import Docora
from tests.support.read_only import frozen
from tests.support.snapshots import KEY
from tests.support.terminal import on_terminal

Env = Mapping[str, str | None]
APP = f"app_{1:024x}"
MASS_CHANGES = (
    ["retry-all-failed"],
    ["resync", APP, "--all"],
    ["repair"],
    ["pause"],
    ["hold", APP],
    ["set-url", APP, "https://new.example/hook"],
)
STYLED = "\x1b[1;37;41mprod\x1b[0m: "


@pytest.fixture(autouse=True)
def links(docora: Docora) -> None:
    docora.add_links(3)
    allowed = sql.SQL("GRANT UPDATE (base_url, updated_at) ON apps TO {}")
    docora.connection.execute(allowed.format(sql.Identifier(docora.role)))


def test_neither_yes_nor_silence_confirms_a_mass_change(docora: Docora, env: Env) -> None:
    unprotected = {**env, "DOCORA_OPS_PROTECTED": "no"}
    with frozen(docora):
        for words in MASS_CHANGES:
            for options, said in (
                (["--yes"], "needs more than --yes"),
                ([], "has no terminal to ask at"),
                (["--yes", "--confirm", "trial"], "--confirm trial: the target is prod"),
            ):
                arguments = [*words, *options, "--target", "prod"]
                docora.run(*arguments, env=unprotected).ended(2, says=said)
    no_target = docora.run("retry-all-failed", "--confirm", "prod")
    assert (no_target.code, "there is no target" in no_target.stderr) == (2, True)


def test_the_name_confirms_it(docora: Docora, env: Env) -> None:
    for words in MASS_CHANGES:
        docora.run(*words, "--confirm", "prod", "--target", "prod", env=env).ended(0)
    assert docora.redis.exists("rq:suspended")
    assert len(docora.waiting()) == 3


@pytest.mark.parametrize("words", MASS_CHANGES[::2], ids=lambda words: words[0])
def test_the_name_is_typed_in_place_of_yes(docora: Docora, env: Env, words: list[str]) -> None:
    """That each mass change wants the name: the tests above."""
    docora.set_link(docora.links()[0], status="scanning", retry_count=0)
    docora.age_links()
    env = {**env, "DOCORA_OPS_DRIFT_GRACE": "0"}
    arguments = [*words, "--target", "prod"]
    with frozen(docora):
        for answer in (b"y\n", b"PROD\n"):
            code, shown = on_terminal(docora, arguments, answer=answer, env=env)
            assert (code, "Type prod to confirm: " in shown) == (130, True), shown
            assert STYLED in shown
    code, shown = on_terminal(docora, arguments, answer=b"prod\n", env={**env, "NO_COLOR": "1"})
    assert (code, STYLED in shown) == (0, False), shown
    assert docora.audit_entries()[0]["command"] == words[0]


def test_what_is_no_mass_change_needs_no_name(docora: Docora, env: Env) -> None:
    [link, *_] = docora.links()
    for words in (
        ["retry-all-failed", "--dry-run"],
        ["retry", *link.ids],
        ["resync", *link.ids, "--yes"],
        ["schedule"],
        ["resume"],
        ["release", APP],
    ):
        docora.run(*words, "--target", "prod", env=env).ended(0)


def test_protected_settings_refuse_mass_changes(docora: Docora, env: Env, write: Write) -> None:
    """As in Docora's own file, which a target may link to."""
    file = write("prod")
    file.write_text(f"DOCORA_OPS_PROTECTED=yes\nREDIS_URL={docora.redis_url}\n")
    refused = docora.run("pause", "--yes", "--env-file", str(file), env=env)
    assert (refused.code, "there is no target" in refused.stderr) == (2, True)
    assert docora.run("resume", "--env-file", str(file), env=env).code == 0


def test_the_python_api_wants_the_name_too(docora: Docora, env: Env) -> None:
    docora.add_worker()
    docora.redis.hset("rq:worker:worker-1", "obeys_holds", 1)
    settings = load_settings(target="prod")
    mass_changes: Sequence[Callable[[actions.Docora], object]] = (
        lambda prod: next(actions.retry_all_failed(prod)),
        lambda prod: next(actions.resync_all(prod, APP)),
        lambda prod: next(actions.repair(prod)),
        actions.pause,
        lambda prod: actions.hold(prod, APP, 60),
        lambda prod: list(actions.set_url(prod, APP, "https://new.example/hook")),
    )
    for change in mass_changes:
        with (
            frozen(docora),
            actions.Docora(settings, confirm="trial") as prod,
            pytest.raises(UsageError, match="the target prod is protected"),
        ):
            change(prod)
        with actions.Docora(settings, confirm="prod") as prod:
            change(prod)


@pytest.mark.slow
def test_a_worker_asks_where_a_terminal_can_answer_and_nowhere_else(
    docora: Docora, env: Env, write: Write, tmp_path: Path
) -> None:
    arguments = ["worker", "--burst", "--target", "prod"]
    write(
        "prod",
        DATABASE_URL=docora.database_access.worker,
        REDIS_URL=docora.redis_access.worker,
        DOCORA_OPS_PROTECTED="yes",
        ENCRYPTION_KEY=KEY.hex(),
        REPOS_BASE_PATH=tmp_path,
    )
    code, shown = on_terminal(docora, arguments, answer=b"y\n", env=env)
    assert (code, "run a" in shown, "Type prod to confirm" in shown) == (130, True, True), shown
    docora.connection.execute("DELETE FROM app_repositories; DELETE FROM apps")
    code, shown = on_terminal(docora, arguments, answer=b"prod\n", env=env)
    assert code == 0, shown
    result = docora.run(*arguments, env=env)
    assert (result.code, "run a worker" in result.stderr) == (0, False), result
