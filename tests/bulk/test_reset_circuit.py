"""`--reset-circuit`: closes the circuits of the repositories of the links that are queued."""

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from docora_ops.database.circuits import reset_circuits
from tests.support.bulk_actions import APP, RESYNC, RETRY, BulkAction
from tests.support.docora import Docora, finish
from tests.support.proxy import eventually
from tests.support.read_only import frozen, read_only
from tests.support.running_commands import PATIENT, await_locks


def circuits(docora: Docora) -> dict[str, list[Any]]:
    """By id of the repository: version of the row, failures, until when it is open."""
    rows = docora.connection.execute(
        "SELECT repository_id, xmin::text, consecutive_failures, circuit_open_until"
        " FROM repositories"
    )
    return {id_: circuit for id_, *circuit in (row.values() for row in rows)}


def open_all(docora: Docora) -> None:
    docora.connection.execute(
        "UPDATE repositories SET consecutive_failures = 5,"
        " circuit_open_until = now() + interval '1 hour'"
    )


def closed(docora: Docora) -> set[str]:
    return {id_ for id_, (_, *state) in circuits(docora).items() if state == [0, None]}


@pytest.mark.parametrize("bulk", [RETRY, RESYNC], ids=str)
def test_only_circuits_of_queued_links_are_closed(docora: Docora, bulk: BulkAction) -> None:
    """Open ones, and those that have counted failures."""
    app_id, other = docora.add_app("Acme Search", APP), docora.add_app("Other", "app_0")
    failures = {"open": 5, "failing": 3, "closed": 0, "running": 5, "bad.id": 5, "other": 5}
    for name, number in failures.items():
        repository_id = docora.add_repository(f"octo/{name}", f"repo_{name}")
        app, status = (other, "synced") if name == "other" else (app_id, bulk.status)
        link = docora.link(app, repository_id, status)
        if name == "running":
            docora.start_job(link.job_id)
        docora.connection.execute(
            "UPDATE repositories SET consecutive_failures = %s, circuit_open_until ="
            " CASE %s WHEN 5 THEN now() + interval '1 hour' END WHERE repository_id = %s",
            (number, number, repository_id),
        )
    before = circuits(docora)
    with frozen(docora):
        command = [*(word for word in bulk.command if word != "--yes"), "--reset-circuit"]
        dry, table = docora.run_together(
            (*command, "--dry-run", "--json"), (*command, "--dry-run"), env=read_only(docora)
        )
    assert dry.data["circuits_reset"] == 2
    assert "2 circuits would be reset." in table.stdout.splitlines()
    real = docora.run(*bulk.command, "--reset-circuit", "--json")
    assert real.code == dry.code == 6, real  # one of the ids is bad
    assert real.data["circuits_reset"] == 2
    after = circuits(docora)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"repo_open", "repo_failing"}
    assert closed(docora) == changed | {"repo_closed"}
    # In the transaction that resets the links.
    [row] = docora.connection.execute(
        "SELECT xmin::text FROM app_repositories WHERE repository_id = 'repo_open'"
    ).fetchall()
    assert {after[name][0] for name in changed} == {row["xmin"]}


def test_circuits_are_locked_in_the_order_of_their_ids(docora: Docora) -> None:
    """So there is no deadlock."""
    ids = ["repo_a", "repo_b", "repo_c"]
    for repository_id in reversed(ids):  # as they lie in the table
        docora.add_repository(f"octo/{repository_id}", repository_id)
    open_all(docora)
    database = docora.actions().database

    def reset() -> None:
        with database.transaction():
            reset_circuits(database, ids)

    with psycopg.connect(docora.database_access.owner) as holder, ThreadPoolExecutor() as pool:
        holder.execute("SELECT FROM repositories WHERE repository_id = 'repo_b' FOR UPDATE")
        done = pool.submit(reset)
        await_locks(docora)
        rows = holder.execute("SELECT repository_id FROM repositories FOR UPDATE SKIP LOCKED")
        free = {repository_id for (repository_id,) in rows}
        holder.rollback()
        done.result()
    assert free == {"repo_b", "repo_c"}
    assert closed(docora) == set(ids)


@pytest.mark.parametrize("released", [True, False])
def test_a_circuit_that_is_locked_is_waited_for_once(docora: Docora, *, released: bool) -> None:
    """Also after a signal: all links are queued already."""
    docora.add_links(40)
    open_all(docora)
    held = docora.links()[7].repository_id
    env = PATIENT if released else {"DOCORA_OPS_LOCK_TIMEOUT": "1"}
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute("SELECT FROM repositories WHERE repository_id = %s FOR UPDATE", (held,))
        process = docora.start(*RETRY.command, "--reset-circuit", env=env)
        await_locks(docora)
        assert docora.statuses() == {"pending_snapshot": 40}
        if released:
            process.send_signal(signal.SIGINT)
            holder.rollback()
        result = finish(process).ended(0 if released else 6)
    assert len(docora.waiting()) == 40
    assert closed(docora) == set(circuits(docora)) - (set() if released else {held})
    said = "40 circuits reset." if released else "39 circuits reset.\n1 circuit not reset: another"
    assert result.stdout.partition("\n\n")[2].startswith(said)


@pytest.mark.parametrize("links", [1, 2])
def test_a_paced_retry_resets_a_circuit_as_soon_as_its_row_is_free(
    docora: Docora, links: int
) -> None:
    """It does not await the results, which Docora's scheduler would keep back.

    Neither if another link waits for the slot, nor if all are queued and it has waited in vain.
    """
    docora.add_links(links)
    link = docora.links()[0]
    open_all(docora)
    env = {"DOCORA_OPS_LOCK_TIMEOUT": "1"} if links == 1 else PATIENT
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute("SELECT FROM repositories FOR UPDATE")
        process = docora.start(*RETRY.command, "--reset-circuit", "--in-flight", "1", env=env)
        eventually(lambda: docora.waiting() == [link.job_id], "its job waits")
        if links == 1:
            await_locks(docora)
            eventually(lambda: not docora.sessions("wait_event_type = 'Lock'"), "a timeout")
        assert closed(docora) == set()
        holder.rollback()
        eventually(lambda: closed(docora) == {link.repository_id}, "its circuit is closed")
    result = finish(process, signal.SIGINT).ended(130)
    assert docora.waiting() == [link.job_id]
    assert docora.statuses()["pending_snapshot"] == 1
    assert "\n1 circuit reset.\n" in result.stdout
    assert "not reset" not in result.stdout
