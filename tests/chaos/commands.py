"""The commands of a round."""

from collections.abc import Sequence
from random import Random

from tests.chaos.world import World


def random_command(world: World, operations: Sequence[str], random: Random) -> list[str]:
    """Returns the arguments of a random command; changing commands are more likely.

    The slow app is chosen more often: its jobs take long, so that others meet them.
    """
    app = world.slow_app if random.random() < 0.3 else random.choice(list(world.names))
    link = random.choice([[*link.ids] for link in world.links if link.app_id == app])
    operation = random.choice([*operations, "bulk_0123456789abcdef"])
    wait = ["--wait", "--timeout", "5"]
    retry_options: list[list[str]] = [[], [], ["--front"], ["--reset-circuit"], ["--dry-run"]]
    retry_all_options: list[list[str]] = [
        [],
        ["--limit", "20"],
        ["--app", app],
        ["--batch-size", "7"],
        ["--batch-size", "1", "--limit", "10"],
        ["--error", "HTTP 500", "--circuit", "closed"],
        ["--front", "--batch-size", "7"],
        ["--reset-circuit"],
        ["--limit", "5", *wait],
        ["--reset-circuit", "--app", app],
        *[["--in-flight", random.choice("1359"), "--timeout", "5"]] * 2,
        ["--in-flight", "4", "--max-failures", random.choice(("0", "2", "30%")), "--front"],
        ["--dry-run"],
    ]
    resync_options: tuple[list[str], ...] = (
        *([], ["--front", "--reset-circuit"]),
        ["--in-flight", "2", "--timeout", "5"],
    )
    reading = (
        ["failed", "--group-by", "error"],
        ["queue"],
        ["show", *link],
        ["doctor"],
        ["operations"],
        ["history"],
        ["progress", operation],
    )
    scope = random.choice(([], [], [app], link))
    command = random.choice(
        (
            *[["retry", *link, *random.choice(retry_options)]] * 5,
            ["retry", *link, *wait],
            *[["retry-all-failed", "--yes", *random.choice(retry_all_options)]] * 5,
            *[["resync", *link]] * 3,
            ["resync", app, "--all", "--yes", *random.choice(resync_options)],
            ["wait", *link, "--timeout", "3"],
            ["wait", operation, "--timeout", "3"],
            *[["pause", "--for", "2s", "--yes"], ["resume"]],
            *[["schedule", *random.choice(([], [], ["--dry-run"]))]] * 2,
            *[["cancel", operation]] * 2,
            *[["repair", *scope, "--yes", "--remove-unknown-jobs"]] * 3,
            *[random.choice(reading)] * 2,
        )
    )
    return [*command, "--json"] if random.random() < 0.5 else command
