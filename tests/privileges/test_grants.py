"""Each grant of the topic is needed, by a command or a job, and doctor says what is missing."""

from collections.abc import Callable

import psycopg
import pytest

from docora_ops.actions.checks import Check, CheckState, check_privileges
from docora_ops.database import Database
from docora_ops.database.postgres_server import read_role
from docora_ops.errors import SnapshotError
from tests.support.diagnoses import ONE_LOOK, check, examine
from tests.support.docora import Docora, Result
from tests.support.privileges import Grant, grants, without_grant
from tests.support.snapshots import Snapshots

CHANGING = (
    *("show APP REPO", "status", "schedule", "repair --yes", "resync APP REPO --update --yes"),
    *("resync APP REPO --yes", "retry APP REPO", "retry APP REPO --reset-circuit", "verify"),
)
READING = ("show APP REPO", "status", "schedule --dry-run", "verify")


def privileges_of(database: Database) -> Check:
    with database.consistent_reads():
        return check_privileges(read_role(database))


def arranged(docora: Docora) -> Callable[..., Result]:
    """Runs a command for a failed link, of which all is known and whose circuit is open."""
    link = docora.add_link()
    docora.add_deliveries(link, 3)
    docora.connection.execute(
        "INSERT INTO repository_snapshots (repository_id, commit_sha, branch)"
        " SELECT repository_id, 'c0ffee', 'main' FROM repositories"
    )

    def run(command: str, **environment: str) -> Result:
        docora.redis.flushdb()
        docora.set_link(link, status="failed")
        docora.connection.execute("UPDATE repositories SET consecutive_failures = 5")
        names = {"APP": link.app_id, "REPO": link.repository_id}
        words = [names.get(word, word) for word in command.split()]
        return docora.run(*words, env=ONE_LOOK | environment)

    return run


@pytest.mark.matrix
@pytest.mark.parametrize(
    "role", ["docora_ops", pytest.param("docora_monitor", marks=pytest.mark.slow)]
)
def test_without_any_one_grant_a_command_is_refused_and_doctor_says_what_to_grant(
    docora: Docora, role: str, subtests: pytest.Subtests
) -> None:
    run = arranged(docora)
    access = docora.database_access
    commands: tuple[str, ...] = CHANGING
    name, url, doctor = docora.role, access.command, "doctor --json"
    if role == "docora_monitor":
        name, url, doctor = access.monitor_name, access.monitor, "doctor --read-only --json"
        commands = READING
    for grant in grants(role):
        with subtests.test(grant=str(grant)), without_grant(docora.connection, grant, name):
            assert any(
                f"permission denied for table {grant.table}" in result.stderr and result.code == 5
                for result in (run(command, DATABASE_URL=url) for command in commands)
            )
            found = check(run(doctor, DATABASE_URL=url), "privileges")
            assert found["hint"] == f"GRANT {grant} TO {name};".replace(" ON ", " ON public.")
    docora.redis.acl_log_reset()


@pytest.mark.matrix
def test_without_any_one_grant_jobs_fail_and_doctor_says_what_to_grant(
    snapshots: Snapshots, subtests: pytest.Subtests
) -> None:
    link, upstream = snapshots.add_link({"kept.txt": "1"})
    connection = snapshots.docora.connection
    role = snapshots.docora.database_access.worker_name
    database = Database(snapshots.settings)
    own = [grant for grant in grants("docora_worker") if grant not in grants("docora_ops")]
    assert Grant("UPDATE", "app_repositories", "last_scanned_at") in own
    for number, grant in enumerate(own):
        with subtests.test(grant=str(grant)):
            # Something to remove, after the first round, and something to add.
            changes: dict[str | bytes, str | bytes | None] = {f"{number}.txt": "1"}
            if number:
                changes[f"{number - 1}.txt"] = None
            upstream.commit(changes)
            with without_grant(connection, grant, role):
                sentence = f"permission denied for table {grant.table}"
                with pytest.raises(SnapshotError, match=sentence):
                    snapshots.run_job(link)
                assert sentence in snapshots.docora.row(link)["last_error"]
                lacking = privileges_of(database)
                assert f"{grant.privilege}" in lacking.finding
                assert lacking.hint
                connection.execute(lacking.hint.encode())
                assert privileges_of(database).state is CheckState.OK
            snapshots.run_job(link)
            assert snapshots.docora.status(link) == "synced"
    database.close()


def test_workers_may_do_what_all_commands_need() -> None:
    of_workers = set(grants("docora_worker"))
    for grant in grants("docora_ops"):
        assert {grant, Grant(grant.privilege, grant.table, None)} & of_workers


def test_without_the_schema_a_command_is_refused_and_doctor_says_why(docora: Docora) -> None:
    docora.connection.execute(f"REVOKE USAGE ON SCHEMA public FROM {docora.role}".encode())
    docora.run("failed").ended(5, says="permission denied for schema public")
    tables = check(examine(docora), "tables")
    assert tables["state"] == "critical"
    assert "GRANT USAGE ON SCHEMA public" in tables["hint"]


def test_the_monitor_reads_neither_tokens_nor_keys_and_show_says_so(docora: Docora) -> None:
    run, monitor = arranged(docora), docora.database_access.monitor
    with psycopg.connect(monitor, autocommit=True) as connection:
        for secret in ("github_token_encrypted", "client_auth_key_encrypted"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT {secret} FROM app_repositories, apps".encode())
    assert run("show APP REPO --json", DATABASE_URL=monitor).data["has_token"] is None
    assert run("show APP REPO --json").data["has_token"] is True
