"""Doctor, and commands, before a Redis that refuses: each reason is named, with what to do."""

from dataclasses import replace
from pathlib import Path

from tests.support.diagnoses import check, examine, not_ok
from tests.support.docora import Docora
from tests.support.own_servers import OwnRedis, own_redis
from tests.support.proxy import eventually, refused_port


def test_a_redis_without_enough_replicas_refuses_writes(spoiled: Docora, own: OwnRedis) -> None:
    link = spoiled.add_link()
    own.client.config_set("min-replicas-to-write", 1)
    result = examine(spoiled)
    refused = spoiled.run("retry", *link.ids, "--json")
    assert spoiled.status(link) == "failed"
    assert result.code == 6, result
    expected = {"redis_primary": "critical", "workers": "warning", "failed_links": "warning"}
    assert not_ok(result) == expected
    found = check(result, "redis_primary")
    for text in (found["finding"], refused.json["error"]):
        assert "Not enough good replicas" in text
    assert (refused.code, refused.json["code"]) == (5, "redis"), refused


def test_a_node_of_a_cluster_is_called_so(docora: Docora, tmp_path: Path) -> None:
    link = docora.add_link()
    # Without a port of its own, its bus would take one that need not exist.
    config = {"cluster-enabled": "yes", "cluster-port": str(refused_port())}
    with own_redis(tmp_path, **config) as own:
        other = replace(docora, redis_access=own.access)
        own.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)  # type: ignore[no-untyped-call]
        eventually(lambda: own.client.cluster("INFO")["cluster_state"] == "ok", "a Cluster")
        result = examine(other)
        refused = other.run("retry", *link.ids, "--json")
        other.close()
    assert docora.status(link) == "failed"
    assert (result.code, refused.code) == (5, 5), (result, refused)
    assert "node of a Cluster" in check(result, "redis")["finding"]
    assert "cluster-enabled" in check(result, "redis")["hint"]
    assert "node of a Cluster" in refused.json["error"]
