"""`docora-ops doctor --read-only`: a role and a user that may only read are as wanted."""

from tests.support.diagnoses import ONE_LOOK, check, make_healthy, not_ok
from tests.support.docora import Docora, Result


def monitor(docora: Docora, **environment: str) -> Result:
    urls = {
        "DATABASE_URL": docora.database_access.monitor,
        "REDIS_URL": docora.redis_access.monitor,
    }
    return docora.run("doctor", "--read-only", "--json", env=ONE_LOOK | urls | environment)


def test_all_is_well_for_the_role_and_the_user_for_monitoring(docora: Docora) -> None:
    """The fixture checks that Redis has refused them nothing."""
    make_healthy(docora)
    before = docora.dump()
    result = monitor(docora)
    assert docora.dump() == before
    assert (result.code, result.stderr, not_ok(result)) == (0, "All is well.\n", {}), result
    assert check(result, "privileges")["finding"].endswith(", as wanted")


def test_who_may_change_something_is_warned_and_nothing_is_tried(docora: Docora) -> None:
    make_healthy(docora)
    before = docora.dump()
    for database, power in (
        (docora.database_access.command, "UPDATE on app_repositories"),
        (docora.database_access.worker, "INSERT on snapshot_files"),
        (docora.database_access.owner, ""),
    ):
        result = monitor(docora, DATABASE_URL=database)
        assert (result.code, not_ok(result)) == (0, {"privileges": "warning"}), result
        found = check(result, "privileges")
        assert "may do more than read: " in found["finding"]
        assert power in found["finding"]
        assert found["hint"] == "use the role docora_monitor of docora-ops help privileges"
    assert docora.dump() == before


def test_a_role_that_may_not_read_all_gets_the_grants_to_read_only(docora: Docora) -> None:
    role = docora.database_access.command_name
    docora.connection.execute(
        f"REVOKE SELECT (status), UPDATE (status) ON app_repositories FROM {role}".encode()
    )
    found = check(monitor(docora, DATABASE_URL=docora.database_access.command), "privileges")
    assert found["state"] == "failed"
    assert found["hint"] == f"GRANT SELECT (status) ON public.app_repositories TO {role};"


def test_transactions_that_are_read_only_are_as_wanted(docora: Docora) -> None:
    url = docora.database_access.monitor
    options = f"{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"
    result = monitor(docora, DATABASE_URL=url + options)
    assert check(result, "postgres_primary")["state"] == "ok", result
