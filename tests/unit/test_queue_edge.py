"""What Redis says, and what jobs hold, is taken with care."""

from __future__ import annotations

import json
import pickle
import zlib

import pytest
import redis

from docora_ops.errors import RedisError
from docora_ops.models import BulkResult, Operation, Outcome, PlannedLink
from docora_ops.queue.connection import redis_errors
from docora_ops.queue.jobs import names_link
from docora_ops.render import documents


def test_arguments_that_redis_repeats_are_not_shown() -> None:
    answer = "unknown command 'AUTH', with args beginning with: 'ops' 'hunter2secret'"
    with pytest.raises(RedisError) as caught, redis_errors("localhost:6379"):
        raise redis.ResponseError(answer)
    assert "unknown command 'AUTH'" in caught.value.message
    assert "hunter2secret" not in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "made_for"),
    [
        ({"app_id": "a", "owner": "b"}, True),
        ({"app_id": "b", "owner": "a"}, False),
        ({"app_id": "a-b", "owner": "a"}, False),
    ],
)
def test_a_job_is_known_by_its_app_id_alone(arguments: dict[str, str], made_for: bool) -> None:
    call = pickle.dumps(("f", None, (), arguments), protocol=pickle.HIGHEST_PROTOCOL)
    assert names_link(zlib.compress(call), "a") is made_for


def test_a_dry_run_encoded_in_pieces_is_the_same_document() -> None:
    links = [
        PlannedLink("app_1", "[]", f"repo_{number}", 'o/"[]"', Outcome.QUEUED)
        for number in range(3)
    ]
    result = BulkResult(Operation.RETRY, None, 3, {Outcome.QUEUED: 3}, {})
    for some in (links, []):
        pieces = documents.encode_dry_run(result, some)
        assert json.loads("".join(pieces)) == documents.dry_run(result, some)
