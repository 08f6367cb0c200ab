"""The mark in Redis that names its database: what leaves, compares and replaces it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from docora_ops.queue import connect
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK, check, examine
from tests.support.docora import Docora, finish
from tests.support.privileges import judges_subcommands, rules, with_rules
from tests.support.proxy import PUSH, Fault, Proxy, eventually
from tests.support.read_only import frozen
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import await_waiting_worker, running

MARK = "docora-ops:pair"


def mark(docora: Docora) -> Mapping[str, Any]:
    found: Any = docora.redis.hget(MARK, "mark")
    left: Mapping[str, Any] = json.loads(found or "{}")
    return left


def become_another_docora(docora: Docora) -> None:
    """As if DATABASE_URL led elsewhere: none of the apps of the mark is there."""
    links = docora.links()
    docora.connection.execute("DELETE FROM app_repositories; DELETE FROM apps")
    for link in links:
        docora.add_app("Other", link.app_id.replace("app_0", "app_f"))
        docora.link(link.app_id.replace("app_0", "app_f"), link.repository_id)


def change_mark(docora: Docora, **changes: object) -> None:
    docora.redis.hset(MARK, "mark", json.dumps({**mark(docora), **changes}))


def test_the_first_change_marks_redis_and_what_only_reads_does_not(docora: Docora) -> None:
    first, second = docora.add_link(), docora.add_link()
    for words in (["retry", *first.ids, "--dry-run"], ["retry-all-failed", "--dry-run"], ["pair"]):
        with frozen(docora):
            assert docora.run(*words).code == 0
    assert "unmarked" in docora.run("pair").stdout
    assert docora.run("retry", *first.ids).code == 0
    query = "SELECT system_identifier::text AS system FROM pg_control_system()"
    [row] = docora.connection.execute(query).fetchall()
    left = mark(docora)
    name = docora.connection.info.dbname
    assert (left["database"], left["system_identifier"]) == (name, row["system"])
    assert left["app_ids"] == sorted({first.app_id, second.app_id})
    later = docora.add_app("Later")
    assert docora.run("retry-all-failed").code == 0
    assert mark(docora) == {**left, "app_ids": sorted([*left["app_ids"], later])}
    shown = docora.run("pair", "--json").data
    assert (shown["state"], shown["mark"]["identity"]["database"]) == ("same", name)


@pytest.mark.parametrize("is_bulk", [False, True])
def test_beside_bullmq_a_change_marks_redis_too(bullmq: Bullmq, *, is_bulk: bool) -> None:
    link = bullmq.docora.add_link()
    assert bullmq.run(*(["retry-all-failed"] if is_bulk else ["retry", *link.ids])).code == 0
    assert mark(bullmq.docora)["app_ids"] == [link.app_id]


def test_a_mark_without_apps_is_decided_by_name_and_identifier(docora: Docora) -> None:
    assert docora.run("pair", "--accept", "--yes").code == 0
    assert mark(docora)["app_ids"] == []
    link = docora.add_link()
    assert docora.run("retry", *link.ids).code == 0
    assert mark(docora)["app_ids"] == [link.app_id]


def test_another_mark_that_came_meanwhile_is_not_replaced(docora: Docora) -> None:
    first, second = docora.add_link(), docora.add_link()
    docora.run("retry", *first.ids)
    change_mark(docora, system_identifier="1")
    with Proxy.before_redis(docora.redis_url) as proxy:
        held = proxy.plan(PUSH, Fault.HOLD_REQUEST)
        process = docora.start("retry", *second.ids, env={"REDIS_URL": proxy.url})
        held.wait()
        change_mark(docora, system_identifier="2")
        held.release()
        assert finish(process).code == 0
    assert mark(docora)["system_identifier"] == "2"


def test_nothing_is_changed_with_the_redis_of_another_database(docora: Docora) -> None:
    link = docora.add_link()
    docora.run("retry", *link.ids)
    docora.redis.delete("rq:queue:snapshot-queue", f"rq:job:{link.job_id}")
    become_another_docora(docora)
    [other] = docora.links()
    docora.redis.sadd("rq:queues", "rq:queue:snapshot-queue")
    with frozen(docora):
        for words in (
            ["retry", *other.ids],
            ["retry-all-failed"],
            ["resync", *other.ids, "--yes"],
            ["schedule"],
        ):
            refused = docora.run(*words, "--json").ended(4, "pair_mismatched")
            assert refused.json["error"].count(docora.connection.info.dbname) > 1
            assert "The mark was left 20" in refused.json["error"]
            assert "docora-ops pair --accept" in refused.json["hint"]
        found = check(examine(docora), "servers_match")
        assert (found["state"], "none of its apps" in found["finding"]) == ("critical", True)
        assert docora.run("pair", "--accept").code == 2
        docora.enqueue(f"{link.app_id}-{link.repository_id}")
        unknown = docora.run("repair", "--remove-unknown-jobs", "--yes", "--json", env=ONE_LOOK)
        assert (unknown.code, unknown.json["code"]) == (4, "pair_mismatched"), unknown
        docora.redis.delete("rq:queue:snapshot-queue", f"rq:job:{link.job_id}")
    assert docora.run("pair", "--accept", "--yes", "--reason", "moved").code == 0
    assert docora.run("retry", *other.ids).code == 0
    assert mark(docora)["app_ids"] == [other.app_id]
    [entry] = [each for each in docora.audit_entries() if each["command"] == "pair"]
    assert entry["reason"] == "moved"


@pytest.mark.parametrize("change", [{"system_identifier": "1"}, {"database": "before"}])
def test_a_restored_or_moved_database_is_accepted_with_one_warning_and_an_entry(
    docora: Docora, change: Mapping[str, object]
) -> None:
    first, second, third = (docora.add_link() for _ in range(3))
    docora.run("retry", *first.ids)
    left = mark(docora)
    change_mark(docora, **change)
    found = check(examine(docora), "servers_match")
    assert (found["state"], "which has its apps" in found["finding"]) == ("warning", True)
    warned = docora.run("retry", *second.ids)
    assert (warned.code, warned.stderr.count("taken for the same Docora")) == (0, 1), warned
    assert mark(docora) == left
    quiet = docora.run("retry", *third.ids)
    assert (quiet.code, "taken for the same" in quiet.stderr) == (0, False)
    entries = [each for each in docora.audit_entries() if each["command"] == "pair"]
    assert [str(next(iter(change.values()))) in each["selection"] for each in entries] == [True]


def test_where_the_system_identifier_is_hidden_names_and_apps_decide(docora: Docora) -> None:
    link = docora.add_link()
    revoke = "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
    docora.connection.execute(revoke.encode())
    try:
        assert docora.run("retry", *link.ids).code == 0
        assert mark(docora)["system_identifier"] is None
        other = docora.add_link()
        third = docora.link(other.app_id, docora.add_repository("octo/third"))
        change_mark(docora, system_identifier="1")
        quiet = docora.run("retry", *other.ids)
        assert (quiet.code, "Warning: Redis" in quiet.stderr) == (0, False)
        # A role that may read it has left the number, which stays.
        assert mark(docora)["system_identifier"] == "1"
        assert mark(docora)["app_ids"] == sorted([link.app_id, other.app_id])
        before = docora.redis.hgetall(MARK)
        assert docora.run("retry", *third.ids).code == 0
        assert docora.redis.hgetall(MARK) == before
    finally:
        docora.connection.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")


@pytest.mark.parametrize("text", ["", "no JSON", "{}", "[1]"])
def test_the_next_change_replaces_a_mark_that_cannot_be_read(docora: Docora, text: str) -> None:
    link = docora.add_link()
    docora.redis.hset(MARK, mapping={"mark": text, "left_at": "1"})
    assert docora.run("retry", *link.ids).code == 0
    assert link.app_id in mark(docora)["app_ids"]


def test_a_user_without_the_key_changes_links_and_leaves_no_mark(docora: Docora) -> None:
    link = docora.add_link()
    name = docora.redis_access.command_name
    keys = (
        "rq:*",
        "docora:bulk:*",
        *(f"docora-ops:{each}*" for each in ("audit", "holds", "op", "outcomes", "sch")),
    )
    docora.redis.acl_setuser(name, enabled=True, reset_keys=True, keys=[*keys, "bull:*"])
    try:
        assert docora.run("retry", *link.ids).code == 0
        assert mark(docora) == {}
        assert "unknown" in docora.run("pair").stdout
        # Redis 6.2 knows no keys that may only be read.
        for rule in ((), (f"%R~{MARK}",))[: 1 + judges_subcommands(docora.redis)]:
            docora.redis.execute_command("ACL", "SETUSER", name, *rule)  # type: ignore[no-untyped-call]
            found = check(examine(docora), "servers_match")
            may_not = f"may not {'write' if rule else 'read'} {MARK}"
            assert (found["state"], may_not in found["finding"]) == ("warning", True), found
            assert f"~{MARK} +h" in found["hint"]
    finally:
        docora.redis.acl_setuser(name, enabled=True, keys=["docora-ops:*"])
        docora.redis.acl_log_reset()


@pytest.mark.slow
def test_a_worker_takes_no_job_from_a_redis_of_another_database(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued({"a": "1\n"})
    name = docora.connection.info.dbname
    other = {"database": "other", "system_identifier": "1", "app_ids": ["app_other"], "who": "kim"}
    docora.redis.hset(MARK, mapping={"mark": json.dumps(other), "left_at": 1})
    with connect(snapshots.settings) as client:
        stuck = docora.add_link("scanning", retry_count=0)
        maintained = SnapshotWorker(snapshots.settings, client, "w")
        maintained.maintain()
        assert docora.status(stuck) == "scanning"
    with running(snapshots) as worker:
        worker.await_line("takes no job", 1)
        said = "takes no job: Redis belongs to another database"
        eventually(lambda: said in docora.run("status").stdout, "the reason")
        docora.redis.hset(MARK, "mark", json.dumps({**other, "app_ids": [link.app_id]}))
        eventually(lambda: docora.status(link) == "synced", "the end of the job")
    assert mark(docora)["database"] != name  # a worker only compares


@pytest.mark.slow
def test_doctor_names_workers_that_may_not_read_the_mark(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    name = docora.redis_access.worker_name
    older = (rule for rule in rules("docora-worker") if MARK not in rule)
    with (
        with_rules(docora.redis, "docora-worker", name, f"resetkeys {' '.join(older)}"),
        running(snapshots, "--name", "w") as worker,
    ):
        await_waiting_worker(docora)

        def finding() -> str:
            found = check(examine(docora), "servers_match")
            return f"{found['state']}: {found['finding']} ({found['hint']})"

        eventually(lambda: finding().startswith("warning: "), "the worker's word")
        assert f"may not read {MARK}" in finding()
        assert finding().endswith(
            f": w (ACL SETUSER the user of the workers %R~{MARK} "
            "+hgetall: docora-ops help privileges)"
        )
        [shown] = docora.run("queue", "--json").data["workers"]
        assert shown["may_compare"] is False
        worker.stop()
    docora.redis.acl_log_reset()
