"""The privileges that the topic `privileges` lists are enough; who has fewer changes nothing."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.database import with_login
from tests.support.docora import Docora
from tests.support.snapshots import FILES, Snapshots

TOPIC = Path(__file__).parents[1] / "docora_ops" / "help" / "privileges.md"
BLOCKS: list[str] = re.findall(
    r"^```\w*\n(.*?)^```", TOPIC.read_text("utf-8"), re.MULTILINE | re.DOTALL
)
READ = ("status", "failed", "links", "doctor", "verify", "metrics", "operations")

Login = Callable[[str], dict[str, str]]


def block(start: str) -> str:
    [found] = [block for block in BLOCKS if block.startswith(start)]
    return found


@pytest.fixture
def user(docora: Docora, worker_number: int) -> Iterator[str]:
    """The user of Redis. Users belong to no database, so each test process has its own."""
    name = f"docora-ops-{worker_number}"
    words = block("ACL SETUSER docora-ops ").split()[3:]
    docora.redis.execute_command("ACL", "SETUSER", name, *words)  # type: ignore[no-untyped-call]
    yield name
    docora.redis.acl_deluser(name)


@pytest.fixture
def login(docora: Docora, user: str, worker_number: int) -> Iterator[Login]:
    """Creates the roles of Postgres, each process its own; returns the variables for one."""
    grants = {role: block(f"CREATE ROLE {role} ") for role in ("docora_ops", "docora_worker")}
    grants["docora_monitor"] = ";".join(grants["docora_ops"].split(";")[:3])
    names = {role: f"{role}_{worker_number}" for role in grants}
    # What everybody may do by default would hide that a grant is missing.
    docora.connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    for role, statements in grants.items():
        own = re.sub(r"\bdocora_(?:ops|worker)\b", names[role], statements)
        docora.connection.execute(own.encode())
    redis_url = with_login(docora.redis_url, user, "choose-one")
    yield lambda role: {
        "DATABASE_URL": with_login(docora.database_url, names[role], "choose%20one"),
        "REDIS_URL": redis_url,
        "DOCORA_OPS_DRIFT_GRACE": "0",
    }
    for name in names.values():
        docora.connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())
    docora.connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


@pytest.mark.parametrize("role", ["docora_ops", "docora_worker"])
def test_the_roles_of_commands_and_of_workers_may_run_every_command(
    docora: Docora, login: Login, role: str
) -> None:
    day = timedelta(days=1)
    synced, due = docora.add_link("synced", scanned=day), docora.add_link("synced", scanned=day)
    docora.add_worker()
    for words in (*([command] for command in READ), ["show", *synced.ids]):
        docora.run(*words, env=login(role)).ended(0)
    failed, _, lost = (
        docora.add_link(),
        docora.add_link(),
        docora.add_link("scanning", retry_count=0),
    )
    docora.add_deliveries(synced, 2)
    for words in (
        ["retry", *failed.ids, "--reset-circuit"],
        ["retry-all-failed", "--yes"],
        ["resync", *synced.ids, "--update", "--yes"],
        ["resync", *synced.ids, "--yes"],
        ["repair", "--yes"],
        ["schedule"],
    ):
        result = docora.run(*words, env=login(role)).ended(0)
        assert "not recorded" not in result.stderr
    assert docora.statuses() == {"pending_snapshot": 4, "synced": 1}
    assert (docora.deliveries(synced), docora.row(lost)["retry_count"]) == (0, 1)
    assert due.job_id in docora.waiting()
    assert len(docora.waiting()) == 5


def test_a_role_of_a_worker_is_enough_for_a_snapshot(snapshots: Snapshots, login: Login) -> None:
    link, upstream = snapshots.add_queued(FILES)
    snapshots.work(**login("docora_worker")).ended(0)
    assert snapshots.docora.status(link) == "synced"
    assert snapshots.received().files == upstream.contents()


def test_a_role_for_monitoring_may_only_read_and_doctor_says_so(
    docora: Docora, login: Login
) -> None:
    env = login("docora_monitor")
    docora.add_worker()
    link = docora.add_link("synced")
    for words in (*([command] for command in READ), ["show", *link.ids]):
        docora.run(*words, env=env).ended(0)
    checks = {check["name"]: check for check in docora.run("doctor", "--json", env=env).data}
    assert checks["Privileges"]["status"] == "note"
    assert "it lacks UPDATE on app_repositories" in checks["Privileges"]["detail"]
    failed = docora.add_link()
    before = docora.dump()[0]
    for words in (["retry", *failed.ids], ["retry-all-failed"], ["resync", *link.ids]):
        docora.run(*words, "--dry-run", env=env).ended(0)
        option = [] if words[0] == "retry" else ["--yes"]
        denied = docora.run(*words, *option, "--json", env=env).ended(5, "postgres")
        assert "permission denied for table app_repositories" in denied.stderr
    assert (docora.dump()[0], docora.waiting()) == (before, [])


@pytest.mark.parametrize(
    ("rule", "named"), [("-time", "the command time"), ("resetkeys", "one of our keys")]
)
def test_what_a_user_of_redis_may_not_do_is_named(
    docora: Docora, user: str, rule: str, named: str
) -> None:
    link = docora.add_link()
    docora.redis.execute_command("ACL", "SETUSER", user, rule)  # type: ignore[no-untyped-call]
    env = {"REDIS_URL": with_login(docora.redis_url, user, "choose-one")}
    result = docora.run("schedule", "--json", env=env).ended(5, "redis", says=named)
    assert "docora-ops help privileges" in result.json["hint"]
    assert docora.status(link) == "failed"


def test_beside_bullmq_the_user_may_remove_what_a_job_has_left(docora: Docora, user: str) -> None:
    [keys] = re.findall(r"so they need to write there: `(\S+)` instead", TOPIC.read_text("utf-8"))
    docora.redis.execute_command("ACL", "SETUSER", user, keys)  # type: ignore[no-untyped-call]
    link = docora.add_link()
    docora.redis.hset(f"bull:snapshot-queue:{link.job_id}", "timestamp", "1764380000000")
    docora.redis.zadd("bull:snapshot-queue:failed", {link.job_id: 1})
    url = with_login(docora.redis_url, user, "choose-one")
    env = {"REDIS_URL": url, "DOCORA_OPS_BACKEND": "bullmq"}
    assert docora.run("retry", *link.ids, "--json", env=env).ended(0).data["state"] == "reset"
    assert docora.redis.keys("bull:*") == []
