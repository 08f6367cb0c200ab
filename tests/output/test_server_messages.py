"""What a server says is shown without the password that it was given."""

import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from docora_ops.errors import LinkError, RedisError
from docora_ops.queue.redis_client import redis_errors
from tests.support.docora import Docora


def test_a_password_in_what_postgres_says_is_cut_out(docora: Docora) -> None:
    """As of a trigger that passes the change on, and says how it logs in."""
    password = str(conninfo_to_dict(docora.database_url)["password"])
    url = docora.database_url
    docora.add_trigger(f"RAISE '%', 'can not pass it on as user:{password} at {url}'")
    link = docora.add_link()
    actions = docora.actions()
    with pytest.raises(LinkError, match=r"as user:\*\*\* at \*\*\*$") as refusal:
        actions.retry(link)
    assert password not in refusal.value.message
    [failure] = actions.retry_all().failures
    assert failure.error_message == refusal.value.message


def test_arguments_that_redis_repeats_are_not_shown() -> None:
    answer = "unknown command 'AUTH', with args beginning with: 'ops' 'hunter2secret'"
    with pytest.raises(RedisError) as caught, redis_errors(redis.Redis()):
        raise redis.ResponseError(answer)
    assert "unknown command 'AUTH'" in caught.value.message
    assert "hunter2secret" not in caught.value.message
