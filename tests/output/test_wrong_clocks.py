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

    chosen = docora.run("links", "--circuit", "open", "--json", env=environment).data
    assert [row["circuit_is_open"] for row in chosen] == [True] * is_open
    [row] = docora.run("links", "--json", env=environment).data
    assert row["circuit_is_open"] == is_open

    shown = docora.run("show", link.app_id, link.repository_id, env=environment)
    assert (f"Circuit is open\t{'yes' if is_open else 'no'}\n") in shown.stdout
    document = docora.run("show", link.app_id, link.repository_id, "--json", env=environment)
    assert document.data["circuit_is_open"] == is_open

    retried = docora.run("retry", link.app_id, link.repository_id, env=environment)
    assert retried.code == 0
    assert ("Circuit\topen until" in retried.stdout) == is_open, retried


@pytest.mark.parametrize("ahead", [FORTY_MINUTES, -FORTY_MINUTES])
def test_the_last_step_of_an_operation_is_as_long_ago_as_redis_says(
    docora: Docora, ahead: int
) -> None:
    docora.add_links(2)
    assert docora.run("retry-all-failed", "--yes").code == 0
    [operation] = docora.run("operations", "--json").data
    docora.redis.expire(f"docora:bulk:{operation['operation_id']}", 3600 - 600)
    environment = clock_ahead(ahead)
    for command in ("status", "operations"):
        shown = docora.run(command, env=environment)
        assert re.search(r"done.*\b10 min ago", shown.stdout), shown.stdout
    [operation] = docora.run("operations", "--json", env=environment).data
    assert 600 <= operation["last_step_seconds"] < 660
