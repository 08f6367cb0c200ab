"""`retry` of a link whose repository has an open circuit."""

import re
from datetime import UTC, datetime

import pytest

from tests.retry.failed_link import APP, REPOSITORY, fail_again
from tests.support.docora import Docora
from tests.support.rows import TestLink


def open_circuit(docora: Docora) -> str:
    """Opens the circuits of all repositories. Returns until when, as it is shown."""
    docora.connection.execute(
        "UPDATE repositories SET consecutive_failures = 5,"
        " circuit_open_until = now() + interval '20 minutes'"
    )
    return circuit(docora).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def circuit(docora: Docora) -> datetime:
    """The end of the open circuit; long ago if it is closed."""
    [row] = docora.connection.execute(
        "SELECT circuit_open_until FROM repositories WHERE repository_id = %s", (REPOSITORY,)
    ).fetchall()
    until: datetime | None = row["circuit_open_until"]
    return until.astimezone(UTC) if until else datetime.fromtimestamp(0, UTC)


def test_an_open_circuit_is_named_with_its_time_and_left_open(
    docora: Docora, link: TestLink
) -> None:
    shown = open_circuit(docora)
    terminal = docora.run("retry", APP, REPOSITORY)
    assert terminal.code == 0
    expected = f"Circuit\topen until {shown}: only the scheduler waits for it"
    assert terminal.stdout.splitlines()[-1] == expected

    fail_again(docora, link)
    result = docora.run("retry", APP, REPOSITORY, "--json")
    assert (result.data["circuit_open_until"], result.data["circuit_reset"]) == (shown, None)
    assert circuit(docora) > datetime.now(UTC)


def test_reset_circuit_closes_it_in_the_transaction_that_resets_the_link(
    docora: Docora, link: TestLink
) -> None:
    other = docora.add_repository("octo/other")
    open_circuit(docora)
    result = docora.run("retry", APP, REPOSITORY, "--reset-circuit", "--json")
    assert (result.data["circuit_open_until"], result.data["circuit_reset"]) == (None, True)
    rows = {
        row["repository_id"]: row
        for row in docora.connection.execute("SELECT xmin::text, * FROM repositories").fetchall()
    }
    assert rows[REPOSITORY]["consecutive_failures"] == 0
    assert rows[REPOSITORY]["circuit_open_until"] is None
    assert rows[other]["consecutive_failures"] == 5
    [same] = docora.connection.execute("SELECT xmin::text FROM app_repositories").fetchall()
    assert same["xmin"] == rows[REPOSITORY]["xmin"]


@pytest.mark.parametrize("command", ["retry", "resync"])
def test_a_dry_run_says_what_reset_circuit_would_do(
    docora: Docora, link: TestLink, command: str
) -> None:
    dry = (command, APP, REPOSITORY, "--dry-run", "--reset-circuit")
    unopened = docora.run(*dry, "--json")
    assert (unopened.data["circuit_open_until"], unopened.data["circuit_reset"]) == (None, False)
    open_circuit(docora)
    before = docora.dump()
    plain, document = docora.run(*dry).stdout.splitlines(), docora.run(*dry, "--json")
    assert docora.dump() == before
    assert plain[-1] == "Circuit\twould be closed"
    # As it would be.
    assert (document.data["circuit_open_until"], document.data["circuit_reset"]) == (None, True)
    real = docora.run(command, APP, REPOSITORY, "--reset-circuit")
    assert re.search(r"^Circuit\tclosed$", real.stdout, re.MULTILINE)
    assert circuit(docora) < datetime.now(UTC)
