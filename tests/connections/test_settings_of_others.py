"""Settings that another client of a pool, the database or the URL has made, and our own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from tests.support.diagnoses import check, examine
from tests.support.docora import Docora
from tests.support.pgbouncer import Neighbours, needs_pgbouncer, pgbouncer
from tests.support.proxy import eventually
from tests.support.read_only import frozen
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import running

TABLES = (
    *("apps", "repositories", "app_repositories"),
    *("app_delivered_files", "repository_snapshots", "snapshot_files"),
)
SIZE = 2
"""Sessions in the pool, as many as a bulk operation uses."""


@pytest.fixture
def staging(docora: Docora) -> Iterator[Docora]:
    """Three failed links in `public`, and three others in the schema of another Docora."""
    docora.add_links(3)
    everything = "".join(
        f"CREATE TABLE staging.{table} (LIKE public.{table} INCLUDING ALL);"
        f"INSERT INTO staging.{table} SELECT * FROM public.{table};"
        for table in TABLES
    )
    docora.connection.execute(
        f"""
        CREATE SCHEMA staging; {everything}
        UPDATE staging.apps SET app_id = 'app_staging';
        UPDATE staging.app_repositories SET app_id = 'app_staging';
        GRANT USAGE ON SCHEMA staging TO {docora.role};
        GRANT ALL ON ALL TABLES IN SCHEMA staging TO {docora.role};
        GRANT {docora.database_access.monitor_name} TO {docora.role}
        """.encode()
    )
    yield docora
    docora.connection.execute(
        f"DROP SCHEMA staging CASCADE;"
        f"REVOKE {docora.database_access.monitor_name} FROM {docora.role}".encode()
    )


@contextmanager
def in_each_session(url: str) -> Iterator[Sequence[psycopg.Connection]]:
    """Clients of the pool, each in a transaction in a session of its own."""
    clients = [psycopg.connect(url, prepare_threshold=None) for _ in range(SIZE)]
    for client in clients:
        client.execute("SELECT 1")
    yield clients
    for client in clients:
        client.commit()
        client.close()


@needs_pgbouncer
def test_what_another_client_of_the_pool_leaves_does_not_count(staging: Docora) -> None:
    links = staging.links()
    left = {
        "search_path": "staging",
        "default_transaction_read_only": "on",
        "role": staging.database_access.monitor_name,
    }
    theirs = staging.connection.execute("TABLE staging.app_repositories").fetchall()
    with pgbouncer(staging.database_access, "transaction", SIZE) as access:
        with in_each_session(access.command) as clients:
            for client in clients:
                client.execute(
                    "CREATE TEMPORARY TABLE app_repositories AS"
                    " SELECT * FROM staging.app_repositories WHERE false"
                )
                for name, value in left.items():
                    client.execute(f"SET {name} = {value}".encode())
        through = {"DATABASE_URL": access.command}
        status = staging.run("status", "--json", env=through)
        assert (status.code, status.data["links_by_status"]["failed"]) == (0, 3), status
        listed = staging.run("links", "--json", env=through)
        assert {row["app_id"] for row in listed.data} == {links[0].app_id}, listed
        retried = staging.run("retry-all-failed", "--json", env=through)
        assert (retried.code, retried.data["queued"]) == (0, 3), retried
        with in_each_session(access.command) as clients:
            for client in clients:
                for name, value in left.items():
                    kept = client.execute(f"SELECT current_setting('{name}')".encode()).fetchone()
                    assert kept == (value,)
    assert staging.statuses() == {"pending_snapshot": 3}
    assert sorted(staging.waiting()) == [link.job_id for link in links]
    assert staging.connection.execute("TABLE staging.app_repositories").fetchall() == theirs
    assert status.data["schema"] == "public"


@contextmanager
def setting(docora: Docora, name: str, value: str) -> Iterator[None]:
    """What each new session of the database has set."""
    database = docora.connection.info.dbname
    docora.connection.execute(f"ALTER DATABASE {database} SET {name} = {value}".encode())
    try:
        yield
    finally:
        docora.connection.execute(f"ALTER DATABASE {database} RESET ALL".encode())


@pytest.mark.parametrize("pool", [False, pytest.param(True, marks=needs_pgbouncer)])
def test_the_url_can_name_the_schema(staging: Docora, *, pool: bool) -> None:
    """Also behind a PgBouncer that ignores the options."""
    access = staging.database_access
    with pgbouncer(access, "transaction", SIZE) if pool else nullcontext(access) as through:
        separator = "&" if "?" in through.command else "?"
        options = quote(r"-c work_mem=1MB -csearch_path=\"$user\",\ staging,public")
        url = f"{through.command}{separator}options={options}"
        listed = staging.run("links", "--json", env={"DATABASE_URL": url})
        assert {row["app_id"] for row in listed.data} == {"app_staging"}, listed


def test_limits_of_the_database_for_transactions_are_not_ours(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    synced, _ = snapshots.add_link({"a": "1\n"})
    link = docora.link(synced.app_id, docora.add_repository("octo/other"))
    # The trigger makes each job and each batch last longer than the limit.
    docora.add_trigger("PERFORM pg_sleep(0.4)", when="new.status <> 'failed'")
    if docora.connection.info.server_version < 170_000:
        pytest.skip("needs transaction_timeout of PostgreSQL 17")
    with setting(docora, "transaction_timeout", "'300ms'"):
        docora.run("retry-all-failed").ended(0)
        snapshots.run_job(synced)
    assert docora.was_reset(link)
    assert docora.status(synced) == "synced"


@pytest.mark.slow
def test_an_administrator_who_allows_no_changes_is_obeyed(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued({"a": "1\n"})
    failed = docora.add_link()
    role = f"ALTER ROLE {urlsplit(docora.database_access.worker).username}"
    docora.connection.execute(f"{role} SET default_transaction_read_only = on".encode())
    off = f"{role} RESET default_transaction_read_only"
    env = {"DATABASE_URL": docora.database_access.worker}
    try:
        with frozen(docora):
            for words in (["retry", *failed.ids], ["retry-all-failed"], ["schedule"]):
                docora.run(*words, env=env).ended(5, says="read_only is on")
            assert docora.run("failed", env=env).code == 0
            assert docora.run("retry", *failed.ids, "--dry-run", env=env).code == 0
            found = check(examine(docora, **env), "postgres_primary")
            assert (found["state"], "read_only is on" in found["finding"]) == ("critical", True)
        with running(snapshots) as worker:
            worker.await_line("default_transaction_read_only is on", 1)
            assert docora.status(link) == "pending_snapshot"
            docora.connection.execute(off.encode())
            eventually(lambda: docora.status(link) == "synced", "the end of the job")
    finally:
        docora.connection.execute(off.encode())


def test_a_command_outlives_a_limit_of_the_database_for_idle_sessions(docora: Docora) -> None:
    """Between two transactions nothing is lost with a session."""
    link = docora.add_link()
    # Of the session that changes a link only: the next one lasts, however slow this machine is.
    docora.add_trigger("PERFORM set_config('idle_session_timeout', '500ms', false)")
    actions = docora.actions()
    actions.retry(link)
    eventually(lambda: not docora.sessions("true"), "the end of an idle session")
    assert actions.ref(link).job_id == link.job_id


@pytest.mark.slow
@needs_pgbouncer
def test_commands_leave_nothing_in_the_pool(docora: Docora) -> None:
    """Refusals where statements are pooled: tests/worker/test_locks.py."""
    docora.add_links(600, apps=2)
    first, second, *_ = docora.links()
    docora.add_deliveries(first, 3)
    with pgbouncer(docora.database_access, "transaction", 2) as access:
        env = {"DATABASE_URL": access.command, "DOCORA_OPS_DRIFT_GRACE": "0"}
        neighbours = Neighbours(docora.database_access, access.command)
        with neighbours.at_work():
            for command in (
                *(("failed",), ("failed", "--group-by", "error"), ("show", *second.ids)),
                *(("doctor",), ("resync", "App 2", "--all", "--dry-run")),
                *(("resync", *first.ids), ("retry", *second.ids), ("retry-all-failed",)),
            ):
                result = docora.run(*command, "--json", env=env)
                assert result.code in {0, 6}, result
        neighbours.look_everywhere(2)
    assert neighbours.strange == []
    assert docora.was_reset(first)
    assert docora.deliveries(first) == 0
    assert len(docora.waiting()) == 600
    assert docora.statuses() == {"pending_snapshot": 600}
    assert docora.doubled_jobs() == []


@needs_pgbouncer
def test_doctor_names_the_pool_and_what_works(docora: Docora) -> None:
    with pgbouncer(docora.database_access, "transaction", 3) as access:
        pooled = check(examine(docora, DATABASE_URL=access.command), "postgres_pooling")
    assert pooled["state"] == "warning", pooled
    assert "commands work, and a worker refuses to start" in pooled["finding"]
    assert "point the workers' DATABASE_URL at Postgres itself" in pooled["hint"]
    with pgbouncer(docora.database_access, "session", 3) as access:
        kept = check(examine(docora, DATABASE_URL=access.command), "postgres_pooling")
    assert (kept["state"], "a worker checks again when it starts" in kept["finding"]) == (
        "ok",
        True,
    )
    assert check(examine(docora), "postgres_pooling")["finding"] == "no proxy before Postgres"


def test_what_is_shown_is_what_is_connected_to(docora: Docora, tmp_path: Path) -> None:
    """Variables of libpq would lead elsewhere."""
    docora.add_link()
    service = tmp_path / "services"
    service.write_text("[x]\nhostaddr=192.0.2.1\nhost=192.0.2.1\nport=1\ndbname=x\n")
    for elsewhere in (
        {"PGHOSTADDR": "127.0.0.2", "PGHOST": "x", "PGPORT": "1", "PGDATABASE": "x"},
        {"PGOPTIONS": "-c search_path=x", "PGSERVICE": "x", "PGSERVICEFILE": str(service)},
    ):
        result = docora.run("retry-all-failed", "--dry-run", "--json", env=elsewhere)
        assert (result.code, result.data["total"]) == (0, 1), result
