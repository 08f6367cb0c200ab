"""`show`: everything about one link, in every place, and that looking changes nothing."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rq.job import JobStatus
from rq.results import Result as RQResult

from tests.support.docora import QUEUE, Docora, Result
from tests.support.read_only import frozen, read_only
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink
from tests.support.terminal import on_terminal

TOKEN = "ghp_0123456789abcdefABCD"
LATER = 4_000_000_000


def show(docora: Docora, link: TestLink, *options: str) -> Result:
    with frozen(docora):
        result = docora.run("show", *link.ids, *options, env=read_only(docora)).ended(0)
    assert result.stderr == ""
    return result


def places(data: dict[str, Any]) -> list[str]:
    return [place["where"] for place in data["job_record"]["places"]]


def test_the_tables_show_all_there_is_about_a_link(docora: Docora) -> None:
    app = docora.add_app("Acme Search")
    repository = docora.add_repository("octo/api", circuit_open_for=timedelta(hours=1))
    link = docora.link(app, repository, retry_count=3, scanned=timedelta(days=2))
    docora.add_deliveries(link, 12)
    docora.add_deliveries(docora.add_link(), 3)
    docora.connection.execute(
        "WITH snapshot AS (INSERT INTO repository_snapshots (repository_id, commit_sha, branch)"
        " VALUES (%s, repeat('c', 40), 'trunk') RETURNING id)"
        " INSERT INTO snapshot_files (snapshot_id, path, sha, size)"
        " SELECT id, 'src/' || i, repeat('a', 64), i FROM snapshot, generate_series(1, 7) i",
        (repository,),
    )
    result, table = show(docora, link, "--json"), show(docora, link, "--all")
    data = result.data
    shown = {
        "status": "failed",
        "error_message": "HTTP 500 on created README.md",
        "retry_count": 3,
        "consecutive_failures": 5,
        "delivered_files": 12,
        "has_token": True,
        "circuit_is_open": True,
        "lock_held": False,
        "job": "none",
        "job_id": link.job_id,
        "backend": "rq",
    }
    assert {name: data[name] for name in shown} == shown
    assert data["last_scanned_at"] < data["created_at"] < data["circuit_open_until"]
    assert (data["snapshot"]["commit_sha"], data["snapshot"]["files"]) == ("c" * 40, 7)
    assert data["job_record"].pop("places") == []
    assert {*data["job_record"].values()} == {None}
    for line in (
        *(f"App id\t{app}", "App name\tAcme Search", "Status\tfailed", "Retry count\t3"),
        f"Circuit open until\t{data['circuit_open_until']}",
    ):
        assert line in table.stdout.splitlines()


def test_a_waiting_job_is_shown_with_its_place_and_its_last_failure(docora: Docora) -> None:
    docora.enqueue("before")
    link = docora.add_link()
    assert docora.run("retry", *link.ids).code == 0
    lines = [f'  File "{number}.py", line 1' for number in range(30)]
    secrets = f"boom at https://{TOKEN}@h/x with {GITHUB_TOKEN}"
    text = "\n".join(["Traceback", *lines, f"DeliveryError: {secrets}"])
    RQResult.create_failure(docora.job(link), 1000, text, worker_name="web-1.4711")
    docora.redis.expire(f"rq:job:{link.job_id}", 1000)
    result, table = show(docora, link, "--json"), show(docora, link, "--all")
    data, rq = result.data, result.data["job_record"]
    assert (data["status"], data["job"]) == ("pending_snapshot", "waiting")
    assert (rq["status"], rq["origin"], rq["retries_left"]) == ("queued", QUEUE, 4)
    assert rq["created_at"] == rq["enqueued_at"] is not None
    assert 900 < rq["expires_in"] <= 1000
    assert "Job expires\tin 16m" in table.stdout
    assert [(each["where"], each["position"]) for each in rq["places"]] == [("list", 2)]
    failure = rq["last_failure"]
    assert failure["failed_at"]
    assert failure["worker"] == "web-1.4711"
    masked = "DeliveryError: boom at https://***@h/x with ***"
    assert failure["text"].splitlines() == [*lines[-9:], masked]
    assert f"Job place\t{QUEUE}: list, position 2" in table.stdout
    assert table.stdout.splitlines()[-10:] == [
        f"Last failure\t{line.strip()}" for line in (masked, *lines[-9:])
    ]
    for secret in (TOKEN, GITHUB_TOKEN, AUTH_KEY):
        assert secret not in result.stdout + table.stdout


def test_a_failed_job_tells_once_when_it_expires(docora: Docora) -> None:
    link = docora.add_link()
    docora.leave_job(link.job_id, JobStatus.FAILED)
    docora.redis.zadd(f"rq:failed:{QUEUE}", {link.job_id: LATER})
    docora.redis.expire(f"rq:job:{link.job_id}", 1000)
    assert f"\nJob\tstale, expires in 16m\nJob\t{QUEUE}: failed\n" in show(docora, link).stdout
    whole = show(docora, link, "--all").stdout
    assert "\nJob expires\tin 16m\n" in whole
    assert f"\nJob place\t{QUEUE}: failed\n" in whole


def test_a_job_is_found_wherever_it_stands(docora: Docora) -> None:
    link = docora.add_link("scanning")
    job_id = link.job_id
    alive = docora.start_job(job_id)
    docora.redis.zadd(f"rq:executions:{job_id}", {alive.id: LATER})
    docora.redis.rpush(docora.queue.key, job_id, "other", job_id)
    docora.redis.rpush(f"{docora.queue.key}:intermediate", job_id)
    kinds = ("failed", "finished", "canceled", "deferred", "scheduled", "ready")
    for kind in kinds:
        docora.redis.zadd(f"rq:{kind}:{QUEUE}", {job_id: LATER, "other": 1})
    docora.hold_lock(job_id)
    result, table = show(docora, link, "--json"), show(docora, link, "--all")
    data = result.data
    assert (data["job"], data["lock_held"]) == ("running", True)
    assert places(data) == [
        *("list", "list", "intermediate"),
        *kinds,
        "execution",
    ]
    found = data["job_record"]["places"]
    assert [place["position"] for place in found[:3]] == [1, 3, 1]
    assert found[3]["score_at"] == datetime.fromtimestamp(LATER, UTC).strftime(
        "%Y-%m-%dT%H:%M:%S.000Z"
    )
    assert (found[-1]["alive"], found[-1]["worker"]) == (True, "worker-1")
    for line in (
        "Job\trunning\n",
        "Lock held\tyes\n",
        f"Job place\t{QUEUE}: intermediate, position 1\n",
        f"Job place\t{QUEUE}: failed\n",
        f"Job place\t{QUEUE}: scheduled, due at {found[3]['score_at']}\n",
        f"Job place\t{QUEUE}: execution on worker-1, alive\n",
    ):
        assert line in table.stdout


@pytest.mark.parametrize("status", ["failed", "scanning", "pending_snapshot", "synced"])
def test_a_terminal_shows_first_what_a_person_acts_on(docora: Docora, status: str) -> None:
    repository = docora.add_repository("octo/api", circuit_open_for=timedelta(hours=1))
    link = docora.link(docora.add_app("Acme Search"), repository, status, retry_count=3)
    docora.connection.execute("UPDATE app_repositories SET last_error = repeat('no way ', 300)")
    docora.connection.execute("UPDATE apps SET base_url = 'https://a.example/' || repeat('x', 900)")
    docora.add_deliveries(link, 12)
    if status == "pending_snapshot":
        docora.enqueue(link.job_id)
        RQResult.create_failure(docora.job(link), 1000, "Traceback\n" * 30, worker_name="web-1")
    code, shown = on_terminal(docora, ["show", *link.ids], columns=80)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    step = {"failed": "retry", "synced": "verify", "pending_snapshot": "wait"}.get(status, "repair")
    assert (code, len(lines) < 24, max(map(len, lines)) <= 80) == (0, True, True), shown
    names = [line.split("  ")[0] for line in lines if line[:1].strip()]
    since = ["Good until"] if status == "failed" else []
    assert names[: 3 + len(since)] == ["Status", "Error", *since, "Next"]
    assert f"docora-ops {step} {' '.join(link.ids)}" in " ".join(" ".join(lines).split())
    piped, whole = docora.run("show", *link.ids), docora.run("show", *link.ids, "--all")
    assert "no way " * 299 in piped.stdout
    has_failed_job = status == "pending_snapshot"
    assert ["Traceback" in text for text in (shown, piped.stdout, whole.stdout)] == [
        *[False] * 2,
        has_failed_job,
    ]


def test_an_error_of_several_lines_stands_on_one_line(docora: Docora) -> None:
    error = "Cloning into '/data/repos/octo/api'...\nfatal: no route to host\n"
    link = docora.link(docora.add_app(), docora.add_repository(), last_error=error)
    flat = "Cloning into '/data/repos/octo/api'... fatal: no route to host"
    for command in (("show", *link.ids), ("failed",), ("links",)):
        assert flat in docora.run(*command).stdout
    assert show(docora, link, "--json").data["error_message"] == error


@pytest.mark.slow
def test_it_says_if_only_a_retry_queues_a_link_again(docora: Docora) -> None:
    app_id, past = docora.add_app(), -timedelta(minutes=1)
    left = docora.link(app_id, docora.add_repository(circuit_open_for=past))
    queued = docora.link(app_id, docora.add_repository())
    docora.link(
        app_id, docora.add_repository(circuit_open_for=past), "synced", scanned=timedelta(0)
    )
    told = "the scheduler does not queue failed links whose circuit was opened"
    assert f"Next\tdocora-ops retry {' '.join(left.ids)}\nNext\t{told}\n" in (
        show(docora, left).stdout
    )
    docora.enqueue(left.job_id)
    assert f"Next\tdocora-ops wait {' '.join(left.ids)}\n" in show(docora, left).stdout
    docora.queue.remove(left.job_id)
    assert told not in show(docora, queued).stdout
    until = "a retry, or until git succeeds for another link of the repository"
    assert docora.run("failed").stderr.endswith(
        f"1 of these links stays failed until {until}: {told}.\n"
    )
    status = docora.run("status", env={"DOCORA_OPS_DRIFT_GRACE": "0"}).stdout
    line = "Circuits\t1 link stays failed until a retry: docora-ops retry-all-failed\n"
    assert line in status
    # Once the other app's link is scanned, the scheduler queues this one, too.
    other = docora.link(docora.add_app("Other"), left.repository_id, "synced", scanned=timedelta(0))
    assert line not in docora.run("status", env={"DOCORA_OPS_DRIFT_GRACE": "0"}).stdout
    docora.set_link(other, status="failed")
    docora.run("schedule")
    assert docora.waiting() == [queued.job_id]
    repository = docora.add_repository(circuit_open_for=timedelta(hours=1))
    refused = docora.link(app_id, repository)
    shown = docora.run("show", *refused.ids, env={"DOCORA_OPS_BACKEND": "bullmq"}).stdout
    assert f"docora-ops retry --reset-circuit {' '.join(refused.ids)}\n" in shown
