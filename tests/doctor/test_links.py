"""Doctor counts failed links and open circuits."""

from __future__ import annotations

from tests.support.diagnoses import ONE_LOOK, check, make_healthy, states
from tests.support.docora import Docora


def test_failed_links_and_open_circuits_are_counted_and_too_many_are_a_failure(
    docora: Docora,
) -> None:
    make_healthy(docora)
    apps = [docora.add_app("Acme"), docora.add_app("Quiet Harbor")]
    for number in range(3):
        docora.link(apps[number % 2], docora.add_repository(f"octo/web{number}"))
    docora.connection.execute(
        "UPDATE repositories SET circuit_open_until = now() + interval '1 hour' * CASE name"
        " WHEN 'web0' THEN 1 ELSE -1 END WHERE name LIKE 'web_'"
    )
    for options, state, code in (
        ((), "warning", 0),
        (("--max-failed", "3"), "warning", 0),
        (("--max-failed", "2"), "critical", 6),
    ):
        result = docora.run("doctor", "--json", *options, env=ONE_LOOK)
        assert (result.code, states(result)["failed_links"]) == (code, state), result
        links, circuits = check(result, "failed_links"), check(result, "open_circuits")
        assert links["finding"].startswith("3 failed links of 2 apps")
        assert links["hint"] == "docora-ops failed --group-by error"
        assert (circuits["state"], circuits["finding"]) == ("warning", "1 open circuit")
        assert circuits["hint"] == "docora-ops links --circuit open --group-by repository"
    docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
    none = docora.run("doctor", "--json", "--max-failed", "0", env=ONE_LOOK)
    assert states(none)["failed_links"] == "ok"
