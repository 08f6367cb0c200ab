"""On a host whose clock is wrong, moments are judged by the clock of the server that keeps them."""

import re
from datetime import timedelta

import pytest

from tests.support.clocks import clock_ahead, with_wrong_clock
from tests.support.docora import Docora

pytestmark = with_wrong_clock
FORTY_MINUTES = 2400


@pytest.mark.parametrize(
    ("ahead", "open_for", "is_open"),
    [(FORTY_MINUTES, timedelta(minutes=20), True), (-FORTY_MINUTES, timedelta(minutes=-5), False)],
)
def test_a_circuit_is_open_by_the_clock_of_postgres(
    docora: Docora, ahead: int, open_for: timedelta, is_open: bool
) -> None:
    app = docora.add_app("Acme", "app_1")
    link = docora.link(app, docora.add_repository("octo/api", "repo_1", circuit_open_for=open_for))
    environment = clock_ahead(ahead)

    listed = docora.run("links", env=environment)
    assert ("open until" in listed.stdout) == is_open, listed.stdout
    chosen = docora.run("links", "--circuit", "open", "--json", env=environment).data
    assert [row["circuit_is_open"] for row in chosen] == [True] * is_open
    [row] = docora.run("links", "--json", env=environment).data
    assert row["circuit_is_open"] == is_open

    retried = docora.run("retry", link.app_id, link.repository_id, env=environment)
    assert retried.code == 0
    circuit = next(line for line in retried.stdout.splitlines() if line.startswith("Circuit"))
    expected = r"open until .* \(in (19|20) min\) after git failures" if is_open else "closed"
    assert re.search(expected, circuit), circuit
