"""What is asked of docora-ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tests.chaos.world import World

Arguments = list[str]


def random_command(world: World, operations: Sequence[str], random: Random) -> Arguments:
    """Any command, changing ones above all. `operations`: ids of those that are known."""
    make = random.choice(_COMMANDS)
    arguments = make(world, operations, random)
    return [*arguments, "--json"] if random.random() < 0.5 else arguments


def _link(world: World, random: Random) -> Arguments:
    app_id = _app(world, random)
    link = random.choice([link for link in world.links if link.app_id == app_id])
    return [link.app_id, link.repository_id]


def _app(world: World, random: Random) -> str:
    """The slow one more often: what it lacks takes a while, so others come to it meanwhile."""
    return world.slow_app if random.random() < 0.3 else random.choice(list(world.names))


def _retry(world: World, _: Sequence[str], random: Random) -> Arguments:
    options = random.choice(([], [], ["--front"], ["--reset-circuit"], ["--dry-run"]))
    return ["retry", *_link(world, random), *options]


def _retry_and_wait(world: World, _: Sequence[str], random: Random) -> Arguments:
    return ["retry", *_link(world, random), "--wait", "--timeout", "5"]


def _retry_all(world: World, _: Sequence[str], random: Random) -> Arguments:
    options = random.choice(
        (
            [],
            ["--limit", "20"],
            ["--app", _app(world, random)],
            ["--batch-size", "7"],
            ["--batch-size", "1", "--limit", "10"],
            ["--error", "HTTP 500", "--skip-open-circuits"],
            ["--limit", "5", "--wait", "--timeout", "5"],
            ["--dry-run"],
        )
    )
    return ["retry-all-failed", "--yes", *options]


def _resync(world: World, _: Sequence[str], random: Random) -> Arguments:
    return ["resync", *_link(world, random)]


def _resync_all(world: World, _: Sequence[str], random: Random) -> Arguments:
    return ["resync", _app(world, random), "--all", "--yes"]


def _schedule(_: World, __: Sequence[str], random: Random) -> Arguments:
    return ["schedule", *random.choice(([], [], ["--dry-run"]))]


def _cancel(_: World, operations: Sequence[str], random: Random) -> Arguments:
    return ["cancel", random.choice([*operations, "bulk_0123456789abcdef"])]


def _repair(world: World, _: Sequence[str], random: Random) -> Arguments:
    scope = random.choice(([], [], [_app(world, random)], _link(world, random)))
    return ["repair", *scope, "--yes", "--remove-unknown-jobs"]


def _look(world: World, operations: Sequence[str], random: Random) -> Arguments:
    return random.choice(
        (
            ["failed", "--group-by", "error"],
            ["queue"],
            ["show", *_link(world, random)],
            ["doctor"],
            ["operations"],
            ["history"],
            ["progress", random.choice([*operations, "bulk_0123456789abcdef"])],
        )
    )


_COMMANDS: Sequence[Callable[[World, Sequence[str], Random], Arguments]] = (
    *[_retry] * 5,
    _retry_and_wait,
    *[_retry_all] * 5,
    *[_resync] * 3,
    _resync_all,
    *[_schedule] * 2,
    *[_cancel] * 2,
    *[_repair] * 3,
    *[_look] * 2,
)
