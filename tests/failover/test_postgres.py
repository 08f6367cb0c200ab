"""What commands say and do while a standby takes over from the primary."""

import pytest

from tests.support.docora import Docora
from tests.support.standby import Pair


def test_until_the_standby_is_promoted_no_host_takes_writes_and_then_the_same_command_works(
    replicated: Docora, pair: Pair
) -> None:
    link = replicated.add_link()
    environment = {"DATABASE_URL": pair.either}
    assert replicated.run("failed", env=environment).code == 0
    pair.catch_up()
    pair.stop_primary()
    refused = replicated.run("retry", *link.ids, "--json", env=environment)
    assert (refused.code, refused.json["code"]) == (5, "postgres"), refused
    assert "no host of DATABASE_URL takes writes at present" in refused.json["error"]
    assert "once the standby is promoted" in refused.json["hint"]
    assert replicated.waiting() == []
    pair.promote()
    retried = replicated.run("retry", *link.ids, "--json", env=environment)
    assert retried.code == 0, retried
    assert replicated.waiting() == [link.job_id]
    row = pair.on_standby.execute("SELECT status FROM app_repositories").fetchone()
    assert row == ("pending_snapshot",)


def test_a_primary_that_shuts_down_is_to_be_tried_again(replicated: Docora, pair: Pair) -> None:
    link = replicated.add_link()
    pair.shut_down_primary()
    refused = replicated.run("retry", *link.ids, "--json")
    assert (refused.code, refused.json["code"]) == (5, "postgres"), refused
    assert "the database system is shutting down" in refused.json["error"]
    assert refused.json["hint"] == "try again in a moment"


@pytest.mark.parametrize("command", [["retry-all-failed", "--yes"], ["schedule"]])
def test_a_change_by_way_of_a_standby_is_refused_until_it_is_promoted(
    replicated: Docora, pair: Pair, command: list[str]
) -> None:
    replicated.add_link()
    pair.catch_up()
    environment = {"DATABASE_URL": pair.standby.command}
    refused = replicated.run(*command, "--json", env=environment)
    assert (refused.code, refused.json["code"]) == (5, "postgres"), refused
    assert "is read-only" in refused.json["error"]
    assert "try again once it is promoted" in refused.json["hint"]
    assert replicated.waiting() == []
    pair.promote()
    assert replicated.run(*command, "--json", env=environment).code == 0
    assert len(replicated.waiting()) == 1
