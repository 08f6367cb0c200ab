"""Runs scripts and pipelines, and decodes the replies of Redis."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, cast

import redis
from redis.client import Pipeline

from docora_ops.queue.redis_client import redis_errors

Command = Sequence[str | int | bytes]
"""A Redis command with its arguments."""
_MOST_DIGITS = 20


def script_of(*names: str) -> str:
    """Joins Lua files of this package into one script."""
    folder = files("docora_ops.queue")
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


class Script:
    """A Lua script of this package."""

    def __init__(self, client: redis.Redis, *names: str) -> None:
        """Joins the files `names` into one script."""
        self.client = client
        self._script = client.register_script(script_of(*names))

    def load(self) -> float:
        """Loads the script, and returns the Unix time by the clock of Redis, in one round trip.

        Raises RedisError.
        """
        pipeline = self.client.pipeline(transaction=False)
        pipeline.script_load(self._script.script)
        pipeline.time()
        with redis_errors(self.client):
            _, (seconds, microseconds) = pipeline.execute()
        return float(seconds + microseconds / 1e6)

    def run(self, arguments: Sequence[str | bytes | int]) -> list[str]:
        """Runs the script and returns its replies. Raises RedisError."""
        with redis_errors(self.client):
            replies = cast("list[bytes]", self._script(args=arguments))
        return [reply.decode(errors="replace") for reply in replies]


def answers_of(pipeline: Pipeline, *, keeps_denials: bool = False) -> list[Any]:
    """Runs a pipeline. Returns the replies, None for a command whose key is of another type.

    Raises the client's RedisError for any other error.

    keeps_denials: return NoPermissionError for a command that is not permitted, instead of raising.
    """
    answers = []
    for answer in pipeline.execute(raise_on_error=False):
        is_other = isinstance(answer, redis.ResponseError) and "WRONGTYPE" in str(answer)
        is_kept = keeps_denials and isinstance(answer, redis.exceptions.NoPermissionError)
        if isinstance(answer, Exception) and not (is_other or is_kept):
            raise answer
        answers.append(None if is_other else answer)
    return answers


def require_acceptance(client: redis.Redis, *commands: Command) -> None:
    """Raises the client's RedisError if Redis would refuse one of the commands. Runs none of them.

    Redis checks permissions, its memory and its role before it runs a transaction.
    """
    with client.pipeline() as pipeline:
        add: Callable[..., object] = pipeline.execute_command
        for command in commands:
            add(*command)
        pipeline.exists()  # malformed, so that Redis executes nothing
        try:
            pipeline.execute()
        except redis.ResponseError as error:
            if "wrong number of arguments" not in str(error):
                raise


def permits(client: redis.Redis, *commands: Command) -> bool:
    """Tells whether our user may run these commands. Raises the client's RedisError."""
    try:
        require_acceptance(client, *commands)
    except redis.exceptions.NoPermissionError:
        return False
    except redis.ResponseError:  # such as a Redis that is out of memory
        return True
    return True


def read_hashes(
    client: redis.Redis, keys: Iterable[str], fields: Sequence[str]
) -> list[list[bytes | None]]:
    """Reads the fields of each hash; all are None if the key is of another type."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, list(fields))
    return [row or [None] * len(fields) for row in answers_of(pipeline)]


def whole_number(text: bytes | None, *, signed: bool = False) -> int | None:
    """Parses a whole number; returns None for any other text, which other programs may write.

    signed: allow a minus sign.
    """
    digits = (text or b"").removeprefix(b"-" if signed else b"")
    return int(text) if text and digits.isdigit() and len(text) < _MOST_DIGITS else None


def text_of(value: bytes) -> str:
    """Decodes UTF-8, replacing malformed bytes."""
    return value.decode(errors="replace")


def optional_text_of(value: bytes | None) -> str | None:
    """Decodes a value; returns None if it is missing or empty."""
    return text_of(value) if value else None


def moment_of_timestamp(seconds: float) -> datetime | None:
    """Converts Unix time; returns None if the number is out of range."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None


def mapping_of(text: str | bytes | None) -> dict[str, str | int | bool | list[str]]:
    """Parses a JSON object; keeps only texts, integers, booleans and lists of texts.

    Returns an empty mapping for anything else, which other programs may have written.
    """
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, str | int)
        or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    }
