"""`retry` of a link whose repository has an open circuit."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.retry.failed_link import APP, REPOSITORY, fail_again
from tests.support.docora import Docora
from tests.support.rows import TestLink


def open_circuit(docora: Docora, until: timedelta) -> None:
    docora.connection.execute(
        "UPDATE repositories SET consecutive_failures = 5, circuit_open_until = now() + %s",
        (until,),
    )


def circuit(docora: Docora) -> dict[str, Any]:
    [row] = docora.connection.execute(
        "SELECT xmin::text, consecutive_failures, circuit_open_until FROM repositories"
    ).fetchall()
    return row


def test_an_open_circuit_is_named_with_its_time_and_left_open(
    docora: Docora, link: TestLink
) -> None:
    open_circuit(docora, timedelta(minutes=20))
    before = circuit(docora)
    until = before["circuit_open_until"].astimezone(UTC)
    shown = until.strftime("%Y-%m-%dT%H:%M:%S.") + f"{until.microsecond // 1000:03d}Z"

    terminal = docora.run("retry", APP, REPOSITORY)
    assert terminal.code == 0
    expected = f"Circuit\topen until {shown}: only the scheduler waits for it"
    assert terminal.stdout.splitlines()[-1] == expected

    fail_again(docora, link)
    result = docora.run("retry", APP, REPOSITORY, "--json")
    assert result.data["circuit_open_until"] == shown
    assert result.data["circuit_reset"] is None
    assert datetime.fromisoformat(shown) <= until
    assert circuit(docora) == before

    fail_again(docora, link)
    open_circuit(docora, timedelta(minutes=-1))
    table = docora.run("retry", APP, REPOSITORY)
    assert table.code == 0
    assert "open until" not in table.stdout


def test_reset_circuit_closes_it_in_the_transaction_that_resets_the_link(
    docora: Docora, link: TestLink
) -> None:
    other = docora.add_repository("octo/other", circuit_open_for=timedelta(minutes=20))
    open_circuit(docora, timedelta(minutes=20))
    result = docora.run("retry", APP, REPOSITORY, "--reset-circuit", "--json")
    assert result.code == 0, result
    assert result.data["circuit_open_until"] is None
    assert result.data["circuit_reset"] is True
    rows = {
        row["repository_id"]: row
        for row in docora.connection.execute("SELECT xmin::text, * FROM repositories").fetchall()
    }
    assert rows[REPOSITORY]["consecutive_failures"] == 0
    assert rows[REPOSITORY]["circuit_open_until"] is None
    assert rows[other]["consecutive_failures"] == 5
    [same] = docora.connection.execute("SELECT xmin::text FROM app_repositories").fetchall()
    assert same["xmin"] == rows[REPOSITORY]["xmin"]

    open_circuit(docora, timedelta(minutes=20))
    fail_again(docora, link)
    table = docora.run("retry", APP, REPOSITORY, "--reset-circuit")
    assert "open until" not in table.stdout
    assert "closed" in table.stdout


@pytest.mark.parametrize("command", ["retry", "resync"])
def test_a_dry_run_says_what_reset_circuit_would_do(
    docora: Docora, link: TestLink, command: str
) -> None:
    dry = (command, APP, REPOSITORY, "--dry-run")
    unopened = docora.run(*dry, "--reset-circuit", "--json")
    assert (unopened.data["circuit_open_until"], unopened.data["circuit_reset"]) == (None, False)
    assert "Circuit" not in docora.run(*dry, "--reset-circuit").stdout

    open_circuit(docora, timedelta(minutes=20))
    before = docora.dump()
    plain = docora.run(*dry).stdout.splitlines()
    option = docora.run(*dry, "--reset-circuit").stdout.splitlines()
    document = docora.run(*dry, "--reset-circuit", "--json")
    assert docora.dump() == before
    assert re.match(r"Circuit\topen until \S+Z: only the scheduler waits for it$", plain[-1])
    assert option[-1] == "Circuit\twould be closed"
    assert max(map(len, plain + option)) <= 80
    # As it would be.
    assert (document.data["circuit_open_until"], document.data["circuit_reset"]) == (None, True)
    assert document.data["dry_run"] is True

    real = docora.run(command, APP, REPOSITORY, "--reset-circuit")
    assert re.search(r"^Circuit\tclosed$", real.stdout, re.MULTILINE)
    assert circuit(docora)["circuit_open_until"] is None
