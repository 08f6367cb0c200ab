"""The page of an app, whom to tell, and that a role without that grant sees all else."""

import re
from datetime import timedelta
from typing import Any

import pytest

from docora_ops.queue.holds import hold_app
from tests.support.diagnoses import check, examine
from tests.support.docora import Docora, finish
from tests.support.privileges import block
from tests.support.proxy import Fault, Proxy, eventually, refused_port
from tests.support.read_only import frozen, read_only
from tests.support.terminal import at_terminals, plain_data

EMAIL = "ops@acme.example"
HINT = "needs a grant: docora-ops help privileges"


@pytest.fixture
def acme(docora: Docora) -> str:
    """An app with links of three statuses, and one of another app."""
    app = docora.add_app("Acme Search")
    for name, status, scanned in (
        ("octo/api", "failed", timedelta(hours=3)),
        ("octo/web", "failed", None),
        ("octo/docs", "synced", timedelta(hours=2)),
        ("octo/new", "synced", timedelta(seconds=5)),
    ):
        link = docora.link(app, docora.add_repository(name), status, scanned=scanned)
        docora.add_deliveries(link, 3)
    docora.add_deliveries(docora.add_link(), 2)
    docora.connection.execute(
        "UPDATE app_repositories SET last_error = 'HTTP 502 on created a/b.c'"
        " WHERE last_scanned_at IS NULL AND app_id = %s",
        (app,),
    )
    return app


def allow_contacts(docora: Docora) -> None:
    """Grants the role what the topic grants it to read the email."""
    [statement] = [
        line for line in block("GRANT SELECT (email").splitlines() if line.endswith("docora_ops;")
    ]
    docora.connection.execute(statement.replace("docora_ops", docora.role).encode())


def page(docora: Docora, app: str, **env: str) -> dict[str, Any]:
    with frozen(docora):
        result = docora.run("show", app, "--json", env=read_only(docora) | env)
    assert (result.code, result.stderr) == (0, ""), result
    data: dict[str, Any] = result.data
    return data


def test_the_page_has_all_of_one_app(docora: Docora, acme: str) -> None:
    allow_contacts(docora)
    data = page(docora, "acme")
    assert data["created_at"] == docora.run("show", acme, "--json").data["created_at"] is not None
    shown = {
        "app_id": acme,
        "app_name": "Acme Search",
        "email": EMAIL,
        "base_url": "https://acme.example/docora",
        "links": 4,
        "failed": 2,
        "pending_snapshot": 0,
        "scanning": 0,
        "synced": 2,
        "overdue": 1,
        "delivered_files": 12,
        "held": None,
        "running_operations": [],
    }
    assert {name: data[name] for name in shown} == shown
    assert data["good_until_at"] < data["last_scanned_at"] < data["last_delivered_at"]
    errors = {group["error_message"]: group["links"] for group in data["failed_by_error"]}
    assert list(errors.values()) == [1, 1]
    lines = docora.run("show", acme).stdout.splitlines()
    for line in (
        *(f"App\tAcme Search ({acme})", f"Email\t{EMAIL}", f"Created\t{data['created_at']}"),
        *("Links\t2 synced, 2 failed", "Overdue\t1 link"),
        f"Delivered\t12 files, the last at {data['last_delivered_at']}",
        *(f"Failed\tdocora-ops failed --app {acme}", f"Delivered\tdocora-ops deliveries {acme}"),
    ):
        assert line in lines
    empty = page(docora, docora.add_app("Quiet Harbor"))
    assert (empty["links"], empty["last_delivered_at"], empty["failed_by_error"]) == (0, None, [])
    assert docora.run("show", "nobody").code == 3


def test_errors_of_links_that_are_tried_again_stand_on_the_page(docora: Docora) -> None:
    app = docora.add_app("Quiet Harbor")
    for status in ("pending_snapshot", "scanning", "pending_snapshot"):
        link = docora.link(app, docora.add_repository(), status)
        docora.set_link(link, last_error="no answer within 30 s on created LICENSE")
    docora.link(app, docora.add_repository(), "pending_snapshot", last_error=None)
    docora.link(app, docora.add_repository(), "synced", last_error=None)
    data = page(docora, app)
    [group] = data["tried_by_error"]
    assert (group["links"], data["failed_by_error"]) == (3, [])
    lines = docora.run("show", app).stdout.splitlines()
    at = lines.index("Failed tries\t3 links, which are tried again")
    assert lines[at + 1] == "Failed tries\t3  no answer within 30 s", lines
    docora.connection.execute("UPDATE app_repositories SET last_error = repeat('fatal: ', 30)")
    [cut], whole = (
        re.findall("fatal: .*", plain_data(at_terminals(docora, command, columns=80).data))
        for command in (["show", app], ["show", app, "--all"])
    )
    assert (cut.strip().endswith("…"), len(whole)) == (True, 4)


def test_a_hold_stands_on_the_page_and_a_held_app_is_not_overdue(docora: Docora, acme: str) -> None:
    actions = docora.actions()
    hold_app(docora.redis, acme, 3600, actions.docora.describe_change("hold", "they deploy"))
    data = page(docora, acme)
    held = data["held"]
    assert (held["reason"], held["since_at"] < held["until_at"], data["overdue"]) == (
        "they deploy",
        True,
        0,
    )
    assert "they deploy" in docora.run("show", acme).stdout
    other = docora.connection.execute("SELECT app_id FROM apps WHERE app_id <> %s", (acme,))
    assert page(docora, *(row["app_id"] for row in other))["held"] is None


@pytest.mark.slow
def test_a_bulk_operation_on_its_links_stands_on_the_page(docora: Docora, acme: str) -> None:
    other = docora.add_app("Quiet Harbor")
    command = ("retry-all-failed", "--app", acme, "--in-flight", "1", "--yes")
    with docora.start(*command) as process:
        eventually(docora.waiting, "a job")
        data = docora.run("show", acme, "--json").data
        shown = docora.run("show", acme).stdout
        assert docora.run("show", other, "--json").data["running_operations"] == []
        process.kill()
    [operation] = data["running_operations"]
    assert (operation["command"], operation["total"], operation["links"]) == (
        "retry-all-failed",
        2,
        2,
    )
    assert f"Running\tOperation {operation['operation_id']} is at work on 2" in shown


def test_without_redis_the_rest_is_shown(docora: Docora, acme: str) -> None:
    env = {"REDIS_URL": f"redis://127.0.0.1:{refused_port()}"}
    result, screen = docora.run_together(("show", acme, "--json"), ("show", acme), env=env)
    assert (result.code, result.json["code"], result.data["links"]) == (5, "redis", 4), result
    assert (result.data["held"], result.data["running_operations"]) == (None, None)
    assert (screen.code, "Links\t2 synced, 2 failed" in screen.stdout) == (5, True), screen


def test_an_app_that_was_removed_meanwhile_is_not_found(docora: Docora) -> None:
    app = docora.add_app("Quiet Harbor")
    with Proxy.before_redis(docora.redis_url) as proxy:
        holds = proxy.plan(b"docora-ops:holds", Fault.HOLD_REQUEST)
        with docora.start("show", app, "--json", env={"REDIS_URL": proxy.url}) as process:
            holds.wait()
            docora.connection.execute("DELETE FROM apps")
            holds.release()
            result = finish(process).ended(3, "not_found")
    assert "no app 'Quiet Harbor'" in result.json["error"]


@pytest.mark.slow
def test_the_email_needs_a_grant_that_doctor_does_not_ask_for(docora: Docora, acme: str) -> None:
    def emails() -> list[str | None]:
        rows = docora.run("apps", "--json").data
        affected = docora.run("report", "--json").data["affected_apps"]
        assert [app["app_id"] for app in affected] == [row["app_id"] for row in rows]
        return [docora.run("show", acme, "--json").data["email"], rows[0]["email"]] + [
            app["email"] for app in affected
        ]

    assert emails() == [None] * 4
    data = page(docora, acme)
    assert (data["email"], data["created_at"], data["links"]) == (None, None, 4)
    assert f"Email\t{HINT}\n" in docora.run("show", acme).stdout
    assert f"`Acme Search`: 2 failed links, email unknown, {HINT}" in docora.run("report").stdout
    assert check(examine(docora), "privileges")["state"] == "ok"
    allow_contacts(docora)
    assert emails() == [EMAIL] * 4
    assert f"- `Acme Search`: 2 failed links, `{EMAIL}`\n" in docora.run("report").stdout
    assert check(examine(docora), "privileges")["state"] == "ok"


def test_at_80_columns_the_last_good_scans_give_way_only_to_a_hold(
    docora: Docora, acme: str
) -> None:
    allow_contacts(docora)
    email = f"opsops--{EMAIL}"
    docora.connection.execute(
        "UPDATE app_repositories SET last_scanned_at ="
        " now() - CASE WHEN last_scanned_at IS NULL THEN interval '2d' ELSE '90d' END;"
        f"UPDATE apps SET email = '{email}', app_name = 'Acme Search Engine'"
    )

    def shown() -> str:
        lines = plain_data(at_terminals(docora, ["apps"], columns=80).data).splitlines()
        assert max(map(len, lines)) <= 80
        return lines[2]

    assert re.fullmatch(rf"Acme S…Engine +4 +2  20\S+ to 20\S+  {email}", shown())
    assert docora.run("hold", acme, "--yes").code == 0
    assert re.fullmatch(rf"Acme Search Engine +4 +2  {email}  20\d\d-\S+ *", shown())


def test_apps_are_sorted_by_name_if_asked_for(docora: Docora, acme: str) -> None:
    for name in ("acme mirror", "Zebra", "Éclair"):
        docora.add_app(name)

    def names(*options: str) -> list[str]:
        return [row["app_name"] for row in docora.run("apps", *options, "--json").data]

    assert names()[:1] == names("--sort", "failed")[:1] == ["Acme Search"]
    by_name = names("--sort", "name")
    assert by_name == sorted(by_name, key=str.casefold)
    assert by_name[:2] == ["acme mirror", "Acme Search"]
    assert names("--sort", "name", "--limit", "1", "--page", "2") == ["Acme Search"]
    assert docora.run("apps", "--sort", "size").code == 2
