"""`hold` and `release`: one app gets nothing meanwhile, and everybody is told who wants that."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from docora_ops.jobs import JobEnd
from docora_ops.queue.holds import HOLDS
from tests.support.diagnoses import ONE_LOOK, check, examine
from tests.support.docora import Docora, Result
from tests.support.outcomes import outcome, record
from tests.support.read_only import frozen
from tests.support.rows import TestLink
from tests.support.terminal import on_terminal

Links = tuple[TestLink, TestLink]
REASON = ("--reason", "wrong URL")


@pytest.fixture
def links(docora: Docora) -> Links:
    """A failed link of an app to hold, and one of another app."""
    docora.add_worker()
    docora.redis.hset("rq:worker:worker-1", "obeys_holds", 1)
    held, other = docora.add_link(), docora.add_link()
    docora.age_links()
    return held, other


def hold(docora: Docora, link: TestLink, *options: str) -> Any:
    return docora.run("hold", link.app_id, "--json", *options).ended(0).data


def exemptions(docora: Docora) -> list[str]:
    names: Any = docora.redis.hkeys(HOLDS)
    return [name.decode() for name in names if name.startswith(b"now:")]


def test_a_hold_ends_by_itself_and_each_change_is_audited(docora: Docora, links: Links) -> None:
    link, other = links
    docora.queue_job(link)
    first = hold(docora, link)
    assert (first["waiting"], first["running"], first["replaced"]) == (1, 0, None)
    again = hold(docora, link, "--for", "2h", *REASON)
    held = again["held"]
    assert again["replaced"] == first["held"]
    assert (held["reason"], "@" in held["who"]) == ("wrong URL", True)
    stored: Any = docora.redis.hget(HOLDS, link.app_id)
    value = json.loads(stored)
    assert set(value) == {"since", "until", "who", "reason"}
    assert value["until"] - value["since"] == 7200
    docora.redis.hset(HOLDS, link.app_id, json.dumps(value | {"until": value["since"] - 1}))
    with frozen(docora):
        nothing = docora.run("release", link.app_id)
    assert (nothing.code, "is not held" in nothing.stderr) == (0, True), nothing
    assert docora.run("schedule", "--json").data["held_left_out"] == []
    assert hold(docora, other, "--for", "ever")["held"]["until_at"] is None
    released = docora.run("release", other.app_id, "--yes", "--json")
    assert (released.code, released.data["released"], released.data["jobs"]) == (0, True, 1)
    history = docora.run("history", "--json", "--no-schedule").data
    commands = [(each["command"], each["selection"].get("for")) for each in history]
    of_holds = [("release", None), ("hold", "ever"), ("hold", "7200s"), ("hold", "86400s")]
    assert commands[:4] == of_holds
    assert history[2]["reason"] == "wrong URL"


def test_a_terminal_is_asked_with_the_jobs_that_wait_and_run(docora: Docora, links: Links) -> None:
    link, _ = links
    docora.queue_job(link)
    with frozen(docora):
        code, shown = on_terminal(docora, ["hold", link.app_id], answer=b"n\n", columns=200)
    assert (code, "nothing more for 1d: 1 job waits?" in shown) == (130, True), shown
    docora.start_job(docora.link(link.app_id, docora.add_repository("octo/running")).job_id)
    code, shown = on_terminal(docora, ["hold", link.app_id], answer=b"y\n", columns=200)
    effect = "1 job waits, 1 running snapshot stops after its current request?"
    assert effect in shown, shown
    assert (code, "To end the hold: docora-ops release" in shown) == (0, True), shown


def test_a_worker_that_does_not_obey_keeps_a_hold_off(docora: Docora, links: Links) -> None:
    docora.add_worker("plain")
    with frozen(docora):
        refused = docora.run("hold", links[0].app_id, "--json").ended(4, "hold_not_obeyed")
    assert refused.json["worker_names"] == ["plain"]
    assert "1 live worker would still take the app's jobs: plain" in refused.stderr
    docora.redis.srem("rq:workers:snapshot-queue", "rq:worker:plain")
    hold(docora, links[0])
    docora.redis.sadd("rq:workers:snapshot-queue", "rq:worker:plain")
    checks = docora.run("doctor", "--json", env=ONE_LOOK).data["checks"]
    [workers] = [check for check in checks if check["name"] == "workers"]
    assert (workers["state"], "held apps: plain" in workers["finding"]) == ("critical", True)


@pytest.mark.slow
def test_commands_for_many_links_leave_held_apps_out_and_say_so(
    docora: Docora, links: Links
) -> None:
    link, other = links
    hold(docora, link)
    name = docora.one("SELECT app_name FROM apps WHERE app_id = %s", link.app_id)
    left_out = [{"app_id": link.app_id, "app_name": name, "links": 1}]
    told = f"1 link left out: {name} is held."

    def check(result: Result, total: int) -> None:
        assert result.code == 0, result
        assert (result.data["total"], result.data["held_left_out"]) == (total, left_out)
        assert told in result.stderr

    with frozen(docora):
        check(docora.run("schedule", "--dry-run", "--json"), 1)
        check(docora.run("resync", link.app_id, "--all", "--yes", "--json"), 0)
    check(docora.run("retry-all-failed", "--limit", "1", "--yes", "--json"), 1)
    assert docora.waiting() == [other.job_id]
    [entry] = docora.run("history", "--json").data[:1]
    assert entry["selection"]["held"] == [name]
    check(docora.run("schedule", "--json"), 1)
    docora.set_link(link, status="scanning", retry_count=0)
    repaired = docora.run("repair", "--yes", env=ONE_LOOK).ended(0)
    assert f"Left out: {name} is held." in repaired.stderr
    assert docora.waiting() == [other.job_id]
    assert docora.status(link) == "scanning"
    assert docora.run("release", link.app_id).code == 0
    assert docora.run("repair", "--yes", env=ONE_LOOK).code == 0
    assert docora.waiting() == [other.job_id, link.job_id]


def test_a_question_about_a_hold_tells_each_notice_once(
    docora: Docora, links: tuple[TestLink, TestLink]
) -> None:
    hold(docora, links[0])
    docora.redis.set("rq:suspended", "1")
    code, shown = on_terminal(
        docora,
        ["retry", *links[0].ids, "--wait", "--timeout", "1"],
        answer=b"y\n",
        columns=200,
        env={"DOCORA_OPS_BACKEND": ""},
    )
    assert code == 8, shown
    for notice in ("workers are suspended", "DOCORA_OPS_BACKEND is not set: using rq"):
        assert shown.count(notice) == 1, shown


@pytest.mark.slow
def test_one_link_is_refused_or_asked_about_or_exempted(docora: Docora, links: Links) -> None:
    link, other = links
    hold(docora, link, *REASON)
    docora.set_link(link, status="synced")
    refused = docora.run("retry", *link.ids, "--json").ended(4, "not_failed")
    docora.set_link(link, status="failed")
    with frozen(docora):
        for command in (["retry", *link.ids], ["resync", *link.ids, "--yes"]):
            refused = docora.run(*command, "--json").ended(4, "app_held")
            assert refused.json["held"]["reason"] == "wrong URL"
            assert "--now" in refused.json["hint"]
        assert docora.run("retry", *link.ids, "--now", "--dry-run").code == 0
        code, shown = on_terminal(docora, ["retry", *link.ids], answer=b"n\n", columns=200)
        asked = "wrong URL; exempt this one job?" in " ".join(shown.split())
        assert (code, asked) == (130, True), shown
        code, shown = on_terminal(docora, ["resync", *link.ids], answer=b"n\n", columns=300)
        assert (code, "wrong URL; exempt this one job, send " in shown) == (130, True), shown
    code, shown = on_terminal(docora, ["retry", *link.ids], answer=b"y\n", columns=200)
    assert code == 0, shown
    created = docora.job_hash(link.job_id)["created_at"]
    assert docora.redis.hget(HOLDS, f"now:{link.job_id}") == created
    shown = docora.run("show", *link.ids).stdout
    assert f"Next\tdocora-ops wait {link.app_id} " in shown, shown
    assert "exempt from the hold; the app is held by " in shown, shown
    # Of an app that is not held, there is nothing to exempt.
    assert docora.run("retry", *other.ids, "--now").code == 0
    assert exemptions(docora) == [f"now:{link.job_id}"]
    # A new hold holds all jobs; a job that waits already can be exempted, too.
    hold(docora, link)
    assert exemptions(docora) == []
    assert docora.run("show", *link.ids, "--json").data["is_exempt"] is False
    assert f"Next\tdocora-ops release {link.app_id}\n" in docora.run("show", *link.ids).stdout
    code, shown = on_terminal(docora, ["resync", *link.ids], answer=b"y\n", columns=200)
    assert (code, shown.count("[y/N]")) == (0, 1), shown
    assert exemptions(docora) == [f"now:{link.job_id}"]
    assert docora.run("release", link.app_id).code == 0
    assert docora.redis.hgetall(HOLDS) == {}


@pytest.mark.slow
@pytest.mark.parametrize("status", ["pending_snapshot", "scanning", "synced"])
def test_a_waiting_job_is_exempted_whatever_the_status_of_its_link(
    docora: Docora, links: Links, status: str
) -> None:
    link, _ = links
    docora.queue_job(link)
    docora.set_link(link, status=status, retry_count=2, last_error="no answer")
    jobless = docora.link(link.app_id, docora.add_repository("octo/jobless"), status)
    hold(docora, link)
    row = docora.row(link)
    with frozen(docora):
        docora.run("retry", *jobless.ids, "--now", "--json").ended(4, "not_failed")
        held = docora.run("retry", *link.ids, "--json")
        assert (held.code, held.json["code"], "--now" in held.stderr) == (4, "app_held", True), held
        assert docora.run("retry", *link.ids, "--now", "--dry-run").code == 0
    exempted = docora.run("retry", *link.ids, "--now", "--json")
    assert (exempted.code, exempted.data["outcome"]) == (0, "already_queued"), exempted
    assert exemptions(docora) == [f"now:{link.job_id}"]
    assert (docora.row(link), docora.waiting()) == (row, [link.job_id])
    awaited = docora.run("retry", *link.ids, "--now", "--wait", "--timeout", "1", "--json")
    assert (awaited.code, awaited.data["waited"]["status"]) == (8, status), awaited
    assert docora.run("history", "--json").data[0]["command"] == "retry"
    docora.redis.delete(docora.queue.key)
    docora.start_job(link.job_id)
    with frozen(docora):
        running = docora.run("retry", *link.ids, "--now", "--json")
    assert (running.code, running.json["job"]) == (4, "running"), running


@pytest.mark.slow
def test_a_held_app_is_shown_and_not_due_overdue_or_lost(docora: Docora, links: Links) -> None:
    link, other = links
    docora.set_link(other, status="synced")
    docora.connection.execute("UPDATE app_repositories SET last_scanned_at = now()")
    docora.connection.execute(
        "UPDATE app_repositories SET last_scanned_at = now() - interval '2 days',"
        " status = 'synced' WHERE app_id = %s",
        (link.app_id,),
    )
    lost = docora.link(link.app_id, docora.add_repository("octo/lost"), "pending_snapshot")
    docora.link(link.app_id, docora.add_repository("octo/failed"))
    docora.age_links()

    def numbers() -> tuple[int, int, int, int, str]:
        status = docora.run("status", "--json", env=ONE_LOOK).data
        doctor = docora.run("doctor", "--json", env=ONE_LOOK).data
        links = docora.run("links", "--overdue", "--json")
        fresh = status["freshness"]
        [check] = [each for each in doctor["checks"] if each["name"] == "drift_lost"]
        counts = (fresh["due"], fresh["overdue"], len(links.data), status["drift"]["lost"])
        return (*counts, check["state"])

    assert numbers() == (3, 1, 1, 1, "critical")
    hold(docora, link, "--for", "ever", *REASON)
    assert numbers() == (0, 0, 0, 0, "ok")
    for command in (["queue"], ["show", *lost.ids], ["status"]):
        result = docora.run(*command)
        assert "for ever: wrong URL" in result.stdout, (command, result)
    # The id, because another app may have the same name.
    assert f"to end the hold: docora-ops release {link.app_id}\n" in result.stdout, result
    for command in (["queue"], ["status"]):
        data = docora.run(*command, "--json", env=ONE_LOOK).data
        [app] = data.get("queue", data)["held"]
        assert (app["app_id"], app["held"]["reason"]) == (link.app_id, "wrong URL")
    apps = {app["app_id"]: app["held"] for app in docora.run("apps", "--json").data}
    assert apps[link.app_id]["reason"] == "wrong URL"
    assert apps[other.app_id] is None
    assert docora.run("show", *lost.ids, "--json").data["held"]["until_at"] is None
    name = docora.one("SELECT app_name FROM apps WHERE app_id = %s", link.app_id)
    hold(docora, link, "--for", "2h", *REASON)
    for command in (["queue"], ["status"], ["show", link.app_id]):
        shown = docora.run(*command, env=ONE_LOOK).stdout
        row = next(row for row in shown.splitlines() if row.startswith("Held\t"))
        app_name = "" if command[0] == "show" else f"{name}, "
        until = r"until 20\d\d-\d\d-\d\dT\d\d:\d\dZ: wrong URL"
        assert re.fullmatch(rf"Held\t{app_name}by \S+ {until}", row), row
    row = docora.run("apps", link.app_id).stdout
    until = r"20\d\d-\d\d-\d\dT\d\d:\d\dZ"
    held = re.search(rf"\t({until})\t(\S+): wrong URL$", row)
    assert held, row
    alone = docora.run("queue", env={"DATABASE_URL": None})
    assert (alone.code, f"Held\t{link.app_id}, by " in alone.stdout) == (0, True), alone
    lost_server = {"DATABASE_URL": "postgres://ops@127.0.0.1:1/docora"}
    assert "names of held apps are unknown" in docora.run("queue", env=lost_server).stderr
    metrics = docora.run("metrics").stdout
    end, who = held.groups()
    labels = f'app_id="{link.app_id}",reason="wrong URL",until="{end}",who="{who}"'
    assert f"docora_app_held{{{labels}}} 1.0\n" in metrics
    assert "docora_links_overdue 0.0\n" in metrics


@pytest.mark.slow
def test_a_link_that_was_cut_off_is_partly_sent(docora: Docora, links: Links) -> None:
    link, _ = links
    docora.set_link(link, status="pending_snapshot")
    docora.add_deliveries(link, 1)
    # The clock of a worker is behind that of Postgres.
    docora.connection.execute(
        "UPDATE app_repositories SET last_scanned_at = "
        "(SELECT max(delivered_at) - interval '300 ms' FROM app_delivered_files)"
    )
    now = datetime.now(UTC)
    ids = {"app_id": link.app_id, "repository_id": link.repository_id}
    synced = outcome(now - timedelta(minutes=3), JobEnd.SYNCED, **ids, created=1)
    failed = outcome(now - timedelta(minutes=2), JobEnd.TRIED_AGAIN, **ids)
    cut_off = outcome(now - timedelta(minutes=1), JobEnd.HELD, **ids, created=1)
    for tries, is_partly_sent in (
        ([], False),
        ([synced], False),
        ([synced, failed], False),
        ([synced, cut_off], True),
        ([synced, cut_off, failed], True),
    ):
        record(docora, tries)
        shown = docora.run("show", *link.ids)
        assert ("some of its files are out" in shown.stdout) == is_partly_sent, (tries, shown)
    docora.set_link(link, status="synced")
    assert docora.run("show", *link.ids, "--json").data["is_partly_sent"] is False


def test_what_is_no_hold_holds_its_app_until_its_release(docora: Docora, links: Links) -> None:
    link, other = links
    docora.redis.hset(HOLDS, link.app_id, "no hold")
    with frozen(docora):
        docora.run("retry", *link.ids, "--json").ended(4, "app_held")
        shown = docora.run("show", *link.ids)
        assert f"by unknown for ever: its entry in {HOLDS} is unreadable" in shown.stdout, shown
    assert docora.run("retry", *other.ids).code == 0
    assert docora.run("release", link.app_id, "--json").data["released"] is True
    assert docora.run("retry", *link.ids).code == 0


def test_doctor_warns_of_what_is_no_hold(docora: Docora) -> None:
    docora.redis.hset(HOLDS, docora.add_link("synced", scanned=timedelta(0)).app_id, "no hold")
    freshness = check(examine(docora), "freshness")
    assert freshness["state"] == "warning", freshness
    assert "is held for ever, for over a week or since an unknown time" in freshness["finding"]


def test_the_hold_of_an_app_that_is_gone_is_shown_and_can_be_ended(docora: Docora) -> None:
    docora.redis.hset(HOLDS, "app_gone", '{"until": null}')
    assert "docora-ops release app_gone" in docora.run("status", env=ONE_LOOK).stdout
    docora.run("release", "app_gone").ended(0, says="app_gone is released")
    [entry] = docora.run("history", "--json").data
    assert (entry["command"], entry["selection"]["app_id"]) == ("release", "app_gone")
    assert docora.run("release", "app_gone").code == 3


def test_secrets_in_a_reason_are_masked_whoever_wrote_it(docora: Docora, links: Links) -> None:
    link, _ = links
    value = {"until": None, "reason": "postgres://kim:hunter2@db/docora is down"}
    docora.redis.hset(HOLDS, link.app_id, json.dumps(value))
    for command in (["queue"], ["show", link.app_id], ["show", *link.ids]):
        for options in ([], ["--json"]):
            shown = docora.run(*command, *options).stdout
            assert ("@db/docora is" in shown, "hunter2" in shown) == (True, False), shown


def test_links_are_due_from_the_release_on(docora: Docora, links: Links) -> None:
    """Nothing could move while the only app was held, so that is no alarm at its release."""
    link, other = links
    docora.delete_link(other)
    docora.set_link(link, status="synced")
    docora.connection.execute(
        "UPDATE app_repositories SET last_scanned_at = now() - interval '1 day'"
    )
    hold(docora, link)
    assert docora.run("release", link.app_id).code == 0
    assert docora.run("status", "--json", env=ONE_LOOK).data["freshness"]["nothing_moves"] is False
