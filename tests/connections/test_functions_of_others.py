"""Functions and operators that another role has made in `public` never run as our role."""

import shlex
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.diagnoses import ONE_LOOK, check, examine
from tests.support.docora import Docora
from tests.support.own_servers import role

# Postgres's own take `text`, so these fit Docora's columns better.
FUNCTIONS = {
    "lower(varchar)": ("text", "pg_catalog.lower($1::text)"),
    '"left"(varchar, integer)': ("text", "pg_catalog.substr($1::text, 1, $2)"),
    "hashtextextended(varchar, integer)": ("bigint", "42"),
}
OPERATORS = {"=": "boolean", "<>": "boolean", "~~*": "boolean", "||": "text"}
TRAP = """
CREATE FUNCTION {name} RETURNS {result} LANGUAGE plpgsql AS $trap$ BEGIN
    INSERT INTO public.caught VALUES (current_user, $name${name}$name$); RETURN {value};
END $trap$
"""


@pytest.fixture
def powerless(docora: Docora, worker_number: int) -> Iterator[str]:
    """The name of a role that has made them, and a table that tells who has run which."""
    name = f"docora_powerless_{worker_number}"
    with role(docora, name, "secret") as powerless:
        docora.connection.execute("GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC")
        with psycopg.connect(powerless.url("secret"), autocommit=True) as theirs:
            theirs.execute("CREATE TABLE caught (who text, what text)")
            theirs.execute("GRANT INSERT ON caught TO PUBLIC")
            for statement in traps():
                theirs.execute(statement.encode())
        yield name


def traps() -> Iterator[str]:
    for name, (result, value) in FUNCTIONS.items():
        yield TRAP.format(name=name, result=result, value=value)
    for number, (operator, result) in enumerate(OPERATORS.items()):
        for right in ("varchar", "text"):
            name = f"trap_{number}(varchar, {right})"
            value = f"$1::text OPERATOR(pg_catalog.{operator}) $2::text"
            yield TRAP.format(name=name, result=result, value=value)
            yield (
                f"CREATE OPERATOR public.{operator} (LEFTARG = varchar, RIGHTARG = {right},"
                f" FUNCTION = trap_{number})"
            )


def caught(docora: Docora) -> set[tuple[str, str]]:
    """Who has run what, but for the tests themselves."""
    sql = "SELECT DISTINCT who, what FROM public.caught WHERE who <> current_user"
    return {(row["who"], row["what"]) for row in docora.connection.execute(sql)}


def test_an_incautious_session_runs_them(docora: Docora, powerless: str) -> None:
    docora.add_link()
    with psycopg.connect(docora.database_url) as incautious:
        incautious.execute("SELECT lower(app_id) FROM apps WHERE app_id <> 'x'")
    run = {what for _, what in caught(docora)}
    assert run == {"lower(varchar)", "trap_1(varchar, varchar)"}


@pytest.mark.slow
def test_no_command_runs_them(docora: Docora, powerless: str) -> None:
    """Jobs run in sessions of the same kind."""
    docora.add_links(8, apps=2)
    first, *_ = docora.links()
    docora.add_deliveries(first, 3)
    docora.age_links()
    for command in (
        *("status", "failed --group-by error", "links --group-by repository", "apps"),
        "links --app 'app 1' --repo octo/* --error HTTP --exclude-error x",
        f"show {first.app_id} {first.repository_id}",
        f"retry {first.app_id} {first.repository_id} --reset-circuit",
        f"resync {first.app_id} {first.repository_id} --update --yes",
        *("retry-all-failed --app 'App 2' --reset-circuit", "retry-all-failed --dry-run"),
        *("schedule", "repair --yes", "resync 'App 1' --all --yes"),
    ):
        result = docora.run(*shlex.split(command), env=ONE_LOOK)
        assert result.code in {0, 6}, (command, result)
        assert caught(docora) == set(), command


def test_doctor_says_that_every_role_may_create_them(docora: Docora, powerless: str) -> None:
    schemas = check(examine(docora), "schemas")
    assert schemas["state"] == "warning"
    assert schemas["finding"] == "every role may create functions and tables in public"
    docora.connection.execute(schemas["hint"].encode())
    assert check(examine(docora), "schemas")["state"] == "ok"
