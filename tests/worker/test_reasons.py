"""Why a worker takes no job: it says so in Redis, and the commands pass it on."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from docora_ops.jobs import NoJobCode
from docora_ops.queue import connect
from docora_ops.worker.reasons import Reasons
from tests.doctor.test_metrics import numbers
from tests.support.delivery_checks import link_row, repository_row
from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import Docora
from tests.support.privileges import grants, without_grant
from tests.support.proxy import eventually
from tests.support.snapshots import AUTH_KEY, Snapshots, encrypt
from tests.support.worker_processes import running

OTHER_KEY = bytes(range(1, 33))


def reasons(docora: Docora) -> list[Mapping[str, Any] | None]:
    workers = docora.run("queue", "--json").data["workers"]
    return [worker["no_job_reason"] for worker in workers]


def rows(docora: Docora, command: str) -> list[str]:
    lines = docora.run(command).stdout.splitlines()
    return [line.partition("\t")[2] for line in lines if line.startswith("Workers\t")]


def refusing(docora: Docora) -> dict[str, int]:
    counts = numbers(docora.run("metrics"))["docora_workers_refusing"]
    return {code: int(count) for (code,), count in counts.items() if count}


def doctor(docora: Docora, **env: str) -> tuple[int, str, str]:
    result = docora.run("doctor", "--json", env=ONE_LOOK | env)
    found = check(result, "workers")
    return result.code, found["state"], found["finding"]


@pytest.mark.slow
def test_a_worker_with_another_key_takes_no_job_until_it_can_decrypt_one_of_the_apps_values(
    snapshots: Snapshots, docora: Docora
) -> None:
    links = snapshots.add_links(["Acme", "Beta"])
    first, second = links.values()
    docora.connection.execute(
        "UPDATE apps SET client_auth_key_encrypted = %s", (encrypt(AUTH_KEY, OTHER_KEY),)
    )
    for link in links.values():
        snapshots.queue(link, max_retry_attempts=1)
    with running(snapshots) as worker:
        worker.await_line("takes no job: ENCRYPTION_KEY decrypts none of the auth keys of 2 apps")
        assert rows(docora, "status") == ["1, takes no job: another ENCRYPTION_KEY"]
        assert refusing(docora) == {"wrong_key": 1}
        docora.add_worker("of_another_host")
        code, state, finding = doctor(docora)
        assert (code, state) == (6, "critical")
        assert "2 on snapshot-queue, 1 takes no job: another ENCRYPTION_KEY" in finding
        assert docora.statuses() == {"pending_snapshot": 2}
        # One value that is right is enough: that of the other app is its own fault.
        snapshots.docora.connection.execute(
            "UPDATE apps SET client_auth_key_encrypted = %s WHERE app_id = %s",
            (encrypt(AUTH_KEY), first.app_id),
        )
        worker.await_line("takes jobs again")
        eventually(lambda: docora.statuses() == {"synced": 1, "failed": 1}, "both jobs")
    assert link_row(snapshots, first) == ("synced", 0, None)
    assert "another ENCRYPTION_KEY" in str(link_row(snapshots, second)[2])
    assert repository_row(snapshots, first.repository_id)["consecutive_failures"] == 0


def test_values_that_are_unreadable_or_of_another_form_prove_nothing(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    snapshots.add_app()
    key = {"encryption_key": SecretStr(OTHER_KEY.hex())}
    with connect(snapshots.settings) as client:

        def found() -> NoJobCode | None:
            settings = snapshots.settings.model_copy(update=key)
            bar = Reasons(settings, client).find()
            return None if bar is None else bar.code

        assert found() is NoJobCode.WRONG_KEY
        role = docora.database_access.worker_name
        for grant in grants("docora_worker"):
            if grant.column == "client_auth_key_encrypted":
                with without_grant(docora.connection, grant, role):
                    assert found() is None
        docora.connection.execute("UPDATE apps SET client_auth_key_encrypted = 'plain'")
        assert found() is None


def test_a_burst_with_another_key_ends_with_an_error(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a": "1"})
    worked = snapshots.work(ENCRYPTION_KEY=OTHER_KEY.hex()).ended(2)
    assert "Error: ENCRYPTION_KEY decrypts none of the auth keys of 1 app\n" in worked.stderr
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.docora.status(link) == "pending_snapshot"


@pytest.mark.parametrize(
    ("written", "code", "message"),
    [
        (None, "suspended", "suspended"),
        ('{"code": "wrong_moon", "message": "moon 2 s behind"}', "unknown", "moon 2 s behind"),
        ("[no JSON", "unknown", "for an unknown reason"),
    ],
    ids=["older worker, or RQ's own", "newer worker", "anything"],
)
def test_a_reason_that_is_not_known_is_passed_on_as_it_is(
    docora: Docora, written: str | None, code: str, message: str
) -> None:
    for name in ("a", "b"):
        docora.add_worker(name)
    docora.redis.hset("rq:worker:a", "state", "suspended")
    if written is not None:
        docora.redis.hset("rq:worker:a", "no_job_reason", written)
    assert reasons(docora) == [{"code": code, "message": message, "hint": None}, None]
    assert rows(docora, "status") == [f"2, 0 busy, 1 takes no job: {message}"]
    assert refusing(docora) == {code: 1}
    docora.redis.delete("rq:worker:b")
    assert rows(docora, "queue") == [f"1, takes no job: {message}"]


def test_a_reason_leaves_no_word_that_is_not_inert(docora: Docora) -> None:
    docora.add_worker("a")
    word = {"code": "host", "message": "\x1b[31m[bold]disk[/bold]\n", "hint": "\x07"}
    docora.redis.hset("rq:worker:a", "no_job_reason", json.dumps(word))
    for command in ("status", "queue", "doctor"):
        shown = docora.run(command, env=ONE_LOOK).stdout
        assert "[bold]disk[/bold]" in shown
        assert not set("\x1b\x07") & set(shown)
