"""`metrics`: each number where it stands, and nothing of a server that is away."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rq.job import JobStatus

from tests.support.docora import Docora, Result
from tests.support.proxy import refused_port

HELP = Path(__file__).parents[2] / "docora_ops" / "help"
PANELS = json.loads((HELP / "grafana.json").read_text(encoding="utf-8"))["panels"]
OF_POSTGRES = {"docora_links", "docora_links_overdue", "docora_circuits_open"}
OF_REDIS = {"docora_queue_jobs", "docora_workers", "docora_workers_suspended"}


def numbers(result: Result) -> dict[str, dict[str, float]]:
    return {
        family.name: {",".join(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(result.stdout)
    }


@pytest.fixture
def full(docora: Docora) -> Docora:
    """One of everything that is counted, two apps with failed links."""
    first, second = docora.add_app("One", "app_1"), docora.add_app("Two", "app_2")
    repository = docora.add_repository(circuit_open_for=timedelta(hours=1))
    docora.link(first, docora.add_repository())
    docora.link(first, repository)
    docora.link(second, repository)
    docora.link(second, docora.add_repository(), "scanning")
    docora.add_link("synced", scanned=timedelta(days=1))
    docora.queue_job(docora.add_link("pending_snapshot"))
    docora.start_job("running", "secret-host-2")
    docora.schedule_job("later")
    docora.leave_job("broken", JobStatus.FAILED)
    docora.leave_job("finished", JobStatus.FINISHED)
    docora.add_worker("secret-host-1")
    docora.add_worker("secret-host-2")
    docora.redis.set("docora-ops:schedule", 1_764_380_000)
    return docora


def test_each_number_is_counted_where_it_stands(full: Docora) -> None:
    before = full.dump()
    result = full.run("metrics", "--by-app").ended(0)
    found = numbers(result)
    [oldest] = found.pop("docora_queue_oldest_seconds").values()
    [scan] = found.pop("docora_oldest_scan_age_seconds").values()
    assert (0 <= oldest < 300, 86_400 <= scan < 86_700) == (True, True)
    assert found == {
        "docora_up": {"postgres": 1, "redis": 1},
        "docora_links": {"pending_snapshot": 1, "scanning": 1, "synced": 1, "failed": 3},
        "docora_failed_links": {"app_1": 2, "app_2": 1},
        "docora_links_overdue": {"": 1},
        "docora_circuits_open": {"": 1},
        "docora_queue_jobs": {
            "waiting": 1,
            "active": 1,
            "delayed": 1,
            "completed": 1,
            "failed": 1,
        },
        "docora_workers": {"busy": 1, "idle": 1},
        "docora_workers_suspended": {"": 0},
        "docora_schedule_last_pass_timestamp_seconds": {"": 1_764_380_000},
    }
    assert "secret-host" not in result.stdout
    assert "docora_failed_links{" not in full.run("metrics").ended(0).stdout
    assert full.dump() == before


@pytest.mark.parametrize(
    ("variable", "url", "absent"),
    [
        ("DATABASE_URL", "postgresql://u:s3cr3t@127.0.0.1:{}/d", OF_POSTGRES),
        ("REDIS_URL", "redis://u:s3cr3t@127.0.0.1:{}/0", OF_REDIS),
    ],
)
def test_a_server_that_is_away_has_no_numbers(
    full: Docora, variable: str, url: str, absent: set[str]
) -> None:
    result = full.run("metrics", env={variable: url.format(refused_port())}).ended(5)
    found = numbers(result)
    assert sorted(found["docora_up"].values()) == [0, 1]
    assert found.keys().isdisjoint(absent)
    assert found.keys() >= (OF_POSTGRES | OF_REDIS) - absent
    assert "docora_queue_oldest_seconds" not in found, "it needs both servers"
    assert "s3cr3t" not in result.stdout + result.stderr


def test_redis_is_up_even_if_both_queues_are_in_use(docora: Docora) -> None:
    docora.add_worker()
    docora.redis.lpush("bull:snapshot-queue:wait", docora.add_link().job_id)
    text = docora.run("metrics", env={"DOCORA_OPS_BACKEND": "auto"}).ended(4).stdout
    assert 'docora_up{server="redis"} 1.0' in text


def test_the_dashboard_asks_for_metrics_that_exist(full: Docora) -> None:
    found = numbers(full.run("metrics", "--by-app").ended(0))
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    names = {name for text in asked for name in re.findall(r"\bdocora_[a-z_]+", text)}
    assert names
    assert names - found.keys() == set()
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
