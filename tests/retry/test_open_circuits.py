"""`retry` of a link whose repository has an open circuit."""

from datetime import UTC, datetime

import pytest

from tests.retry.failed_link import APP, REPOSITORY, fail_again
from tests.support.docora import Docora
from tests.support.rows import TestLink


def open_circuits(docora: Docora) -> str:
    """Opens all. Returns until when, as it is shown."""
    [row, *_] = docora.connection.execute(
        "UPDATE repositories SET consecutive_failures = 5,"
        " circuit_open_until = now() + interval '20 minutes' RETURNING circuit_open_until"
    ).fetchall()
    until: datetime = row["circuit_open_until"].astimezone(UTC)
    return until.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def test_an_open_circuit_is_named_with_its_time_and_left_open(
    docora: Docora, link: TestLink
) -> None:
    shown = open_circuits(docora)
    terminal = docora.run("retry", APP, REPOSITORY)
    expected = f"Circuit\topen until {shown}: only the scheduler waits for it"
    assert (terminal.code, terminal.stdout.splitlines()[-1]) == (0, expected)
    fail_again(docora, link)
    result = docora.run("retry", APP, REPOSITORY, "--json")
    assert (result.data["circuit_open_until"], result.data["circuit_reset"]) == (shown, None)


@pytest.mark.parametrize("command", ["retry", "resync"])
def test_reset_circuit_closes_it_in_the_transaction_that_resets_the_link(
    docora: Docora, link: TestLink, command: str
) -> None:
    other = docora.add_repository("octo/other")
    reset = (command, APP, REPOSITORY, "--reset-circuit")
    dry = docora.run(*reset, "--dry-run", "--json")
    assert (dry.data["circuit_open_until"], dry.data["circuit_reset"]) == (None, False)
    open_circuits(docora)
    before = docora.dump()
    dry, shown = docora.run_together((*reset, "--dry-run", "--json"), (*reset, "--dry-run"))
    assert docora.dump() == before
    assert (dry.data["circuit_open_until"], dry.data["circuit_reset"]) == (None, True)
    assert shown.stdout.splitlines()[-1] == "Circuit\twould be closed"
    result = docora.run(*reset)
    assert "Circuit\tclosed" in result.stdout.splitlines()
    rows = {
        row["repository_id"]: row
        for row in docora.connection.execute("SELECT xmin::text, * FROM repositories").fetchall()
    }
    assert (rows[REPOSITORY]["consecutive_failures"], rows[other]["consecutive_failures"]) == (0, 5)
    assert rows[REPOSITORY]["circuit_open_until"] is None
    [same] = docora.connection.execute("SELECT xmin::text FROM app_repositories").fetchall()
    assert same["xmin"] == rows[REPOSITORY]["xmin"]
