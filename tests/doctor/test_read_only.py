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
    url = docora.database_access.monitor
    read_only = f"{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"
    for result in (monitor(docora), monitor(docora, DATABASE_URL=url + read_only)):
        assert (result.code, result.stderr, not_ok(result)) == (0, "All is well.\n", {}), result
    assert docora.dump() == before


def test_without_the_option_it_tells_what_they_lack(docora: Docora) -> None:
    make_healthy(docora)
    result = docora.run(
        "doctor", "--json", env=ONE_LOOK | {"DATABASE_URL": docora.database_access.monitor}
    )
    assert (result.code, not_ok(result)["privileges"]) == (6, "critical"), result
    assert "UPDATE (status, retry_count, last_error)" in check(result, "privileges")["hint"]


def test_a_role_that_may_not_read_all_gets_the_grants_to_read_only(docora: Docora) -> None:
    role = docora.database_access.command_name
    docora.connection.execute(
        f"REVOKE SELECT (status), UPDATE (status) ON app_repositories FROM {role}".encode()
    )
    found = check(monitor(docora, DATABASE_URL=docora.database_access.command), "privileges")
    assert found["state"] == "critical"
    assert found["hint"] == f"GRANT SELECT (status) ON public.app_repositories TO {role};"
