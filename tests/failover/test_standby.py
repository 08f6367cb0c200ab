"""A standby may lag behind the queue: how far is shown, and nothing is called lost."""

from datetime import UTC, datetime

import pytest

from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.standby import Pair

pytestmark = pytest.mark.slow  # starts a pair of servers
ONE_LOOK = {"DOCORA_OPS_DRIFT_GRACE": "0"}


def test_a_standby_shows_its_lag_and_calls_no_link_lost(replicated: Docora, pair: Pair) -> None:
    link = replicated.add_link(status="pending_snapshot")
    replicated.set_link(link, created_at=datetime(2020, 1, 1, tzinfo=UTC))
    pair.catch_up()
    pair.lag()
    # On the standby it is pending still, while its job has run and is gone.
    replicated.set_link(link, status="synced", last_scanned_at=datetime(2020, 1, 2, tzinfo=UTC))
    environment = {"DATABASE_URL": pair.standby.command, **ONE_LOOK}
    status = replicated.run("status", "--json", env=environment)
    assert status.code == 0, status
    assert status.data["links_by_status"]["pending_snapshot"] == 1
    assert status.data["drift"] is None
    standby = status.data["standby"]
    assert standby["unreplayed_bytes"] > 0
    assert standby["last_change_seconds"] >= 0
    screen = replicated.run("status", env=environment).stdout
    assert ", a standby, last change " in screen
    assert "bytes to replay" in screen
    assert "not judged: a standby may lag behind the queue" in screen

    found = {
        each["name"]: each
        for each in replicated.run("doctor", "--json", env=environment).data["checks"]
    }
    assert found["postgres_primary"]["state"] == "critical"
    assert "it is a standby, last change" in found["postgres_primary"]["finding"]
    for name in ("drift_lost", "drift_stuck", "servers_match"):
        assert found[name]["state"] == "not_checked", found[name]
        assert found[name]["finding"] == "needs the primary"

    metrics = replicated.run("metrics", env=environment)
    assert metrics.code == 0, metrics
    assert "docora_links{" in metrics.stdout
    assert "docora_drift_links" not in metrics.stdout

    repair = replicated.run("repair", "--dry-run", "--json", env=environment)
    assert (repair.code, repair.json["code"]) == (5, "postgres"), repair
    assert "it says nothing about drift" in repair.json["error"]

    wait = replicated.run("wait", *link.ids, "--timeout", "2", "--json", env=environment)
    assert wait.code == 8, wait
    assert "No live job" not in wait.stderr

    pair.catch_up()
    again = replicated.run("wait", *link.ids, "--timeout", "5", "--json", env=environment)
    assert again.code == 0, again


def test_a_standby_is_preferred_where_the_url_says_so(replicated: Docora, pair: Pair) -> None:
    pair.catch_up()
    url = f"{pair.primary.command},{pair.standby_host}&target_session_attrs=prefer-standby"
    for promoted, host in ((False, pair.standby_host), (True, pair.primary_host)):
        if promoted:
            pair.promote()
            eventually(lambda: not pair.is_standby, "a promotion")
        status = replicated.run("status", "--json", env={"DATABASE_URL": url})
        assert status.code == 0, status
        assert status.data["postgres"].endswith(f" on {host}")
