"""`metrics`: each number where it stands, nothing of a server that is down, one valid text."""

from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rq.job import JobStatus
from rq.worker import WorkerStatus

from tests.support.docora import QUEUE, Docora, Result
from tests.support.proxy import refused_port
from tests.support.read_only import frozen
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN

STATUSES = ("pending_snapshot", "scanning", "synced", "failed")
JOBS = ("waiting", "active", "delayed", "completed", "failed")
WORKERS = (*(status.value for status in WorkerStatus), "unknown", "silent")
OF_POSTGRES = {"docora_links", "docora_circuits_open"}
OF_REDIS = {"docora_queue_jobs", "docora_workers", "docora_backend_ok"}
OF_ANY = {"docora_up", "docora_scrape_seconds"}
Numbers = dict[str, dict[tuple[str, ...], float]]


def numbers(result: Result) -> Numbers:
    """The samples of the text by metric, and by the values of their labels."""
    found: Numbers = {}
    for family in text_string_to_metric_families(result.stdout):
        assert (family.type, bool(family.documentation)) == ("gauge", True)
        found[family.name] = {}
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert labels not in found[family.name]
            found[family.name][labels] = sample.value
    return found


def by(names: tuple[str, ...], *before: str, **counts: int) -> dict[tuple[str, ...], float]:
    return {(*before, name): counts.get(name, 0) for name in names}


@pytest.fixture
def apps(docora: Docora) -> list[str]:
    """Two apps, and one of everything that is counted."""
    apps = [docora.add_app("Acme Search"), docora.add_app("Quiet Harbor")]
    repositories = [docora.add_repository(f"octo/{each}") for each in "abc"]
    repositories.append(docora.add_repository("octo/d", circuit_open_for=timedelta(hours=1)))
    docora.add_repository("octo/e", circuit_open_for=timedelta(hours=-1))
    for repository in repositories:
        docora.link(apps[0], repository)
    docora.link(apps[1], repositories[0])
    docora.link(apps[1], repositories[1], "synced")
    docora.link(apps[1], repositories[2], "scanning")
    docora.add_link("pending_snapshot")  # lost
    docora.queue_job(docora.add_link("pending_snapshot"))
    docora.age_links()
    docora.add_link("pending_snapshot")  # too new to be lost
    docora.start_job("running")
    docora.schedule_job("later")
    docora.leave_job("broken", JobStatus.FAILED)
    docora.leave_job("finished", JobStatus.FINISHED)
    for number, state in enumerate(("busy", "idle", "suspended", "secret-host-4 is on fire"), 1):
        docora.add_worker(f"secret-host-{number}")
        docora.redis.hset(f"rq:worker:secret-host-{number}", "state", state)
    docora.redis.sadd(f"rq:workers:{QUEUE}", "rq:worker:killed")
    return apps


def test_each_number_is_counted_where_it_stands(docora: Docora, apps: list[str]) -> None:
    with frozen(docora):
        result = docora.run("metrics", "--by-app")
    assert (result.code, result.stderr) == (0, "")
    found = numbers(result)
    [age] = found.pop("docora_queue_oldest_seconds").values()
    assert 0 <= age < 300
    [seconds] = found.pop("docora_scrape_seconds").values()
    assert 0 < seconds < 60
    assert found == {
        "docora_up": {("postgres",): 1, ("redis",): 1},
        "docora_links": by(STATUSES, pending_snapshot=3, scanning=1, synced=1, failed=5),
        "docora_failed_links": {(apps[0],): 4, (apps[1],): 1},
        "docora_circuits_open": {(): 1},
        "docora_queue_jobs": by(JOBS, QUEUE, waiting=1, active=1, delayed=1, completed=1, failed=1),
        "docora_workers": by(WORKERS, busy=1, idle=1, suspended=1, unknown=1),
        "docora_backend_ok": {(): 1},
        "docora_drift_links": {("lost",): 1, ("stuck",): 1},
    }
    with frozen(docora):
        data = docora.run("metrics", "--by-app", "--json").data
    assert data["links_by_status"] == dict(zip(STATUSES, (3, 1, 1, 5), strict=True))
    assert data["jobs_by_status"] == dict.fromkeys(JOBS, 1)
    assert data["drift"] == {"lost": 1, "stuck": 1, "at_least": False}
    assert [app["links"] for app in data["failed_by_app"]] == [4, 1]
    for hidden in ("secret-host", "killed", "HTTP 500", AUTH_KEY, GITHUB_TOKEN):
        assert hidden not in result.stdout


@pytest.mark.parametrize(
    ("down", "variable", "kept"),
    [
        ("postgres", "DATABASE_URL", OF_ANY | OF_REDIS | {"docora_queue_oldest_seconds"}),
        ("redis", "REDIS_URL", OF_ANY | OF_POSTGRES | {"docora_failed_links"}),
    ],
)
@pytest.mark.usefixtures("apps")
def test_a_server_that_is_down_has_no_numbers_but_that_it_is_down(
    docora: Docora, down: str, variable: str, kept: set[str]
) -> None:
    env = {variable: f"{down}://u:s3cr3t@127.0.0.1:{refused_port()}/1"}
    result, document = docora.run_together(
        ("metrics", "--by-app"), ("metrics", "--by-app", "--json"), env=env
    )
    found, data = numbers(result), document.data
    assert result.code == document.code == 5
    assert found.keys() == kept
    for name in ("postgres", "redis"):
        assert found["docora_up"][(name,)] == data[f"{name}_up"] == (name != down)
    assert result.stderr.count("Error: ") == document.stderr.count("Error: ") == 1
    assert "s3cr3t" not in result.stdout + result.stderr
    assert document.json["code"] == down
    lost = (data["links_by_status"] is None, data["jobs_by_status"] is None, data["drift"])
    assert lost == (down == "postgres", down == "redis", None)


def test_a_server_that_refuses_midway_counts_as_down(docora: Docora) -> None:
    docora.add_link()
    role = docora.database_access.command_name
    right = "SELECT (created_at) ON app_repositories"
    docora.connection.execute(f"REVOKE {right} FROM {role}".encode())
    try:
        result = docora.run("metrics")
    finally:
        docora.connection.execute(f"GRANT {right} TO {role}".encode())
    assert result.code == 5
    assert "Error: Postgres database" in result.stderr
    found = numbers(result)
    assert found.keys() == OF_ANY | OF_REDIS
    assert found["docora_up"] == {("postgres",): 0, ("redis",): 1}
