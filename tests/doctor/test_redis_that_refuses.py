"""Doctor, and commands, before a Redis that refuses: each reason is named, with what to do."""

from tests.support.diagnoses import check, examine, not_ok
from tests.support.docora import Docora
from tests.support.own_servers import OwnRedis


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
