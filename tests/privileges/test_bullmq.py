"""Each privilege of the user for commands beside BullMQ is needed; tests/bullmq runs with them."""

from contextlib import nullcontext

import pytest

from tests.support.bullmq import Bullmq
from tests.support.privileges import only_our_scripts, rules, without_rule

OPTIONAL = {"+client|list", "+exists", "+info", "+smembers", "+multi"} | {
    f"%R~rq:{key}" for key in ("*:snapshot-queue", "queue:snapshot-queue:intermediate", "worker:*")
}
READING = (
    ("show", "APP", "REPO"),
    ("status",),
    ("links",),
    ("queue",),
    ("metrics",),
    ("retry", "APP", "REPO", "--dry-run"),
    ("repair", "--dry-run"),
    ("doctor", "--read-only"),
)
COMMANDS = (
    ("retry", "APP", "REPO", "--reason", "a test"),
    ("retry-all-failed", "--yes"),
    ("doctor",),
    ("queue",),
    ("show", "APP", "REPO"),
    ("operations",),
    ("progress", "bulk_0123456789abcdef"),
    ("history",),
)


@pytest.mark.matrix
def test_without_any_one_rule_a_command_is_refused(
    bullmq: Bullmq, subtests: pytest.Subtests
) -> None:
    docora = bullmq.docora
    name = docora.redis_access.bullmq.partition("//")[2].partition(":")[0]
    link = docora.add_link()
    bullmq.delay(link)
    ids = {"APP": link.app_id, "REPO": link.repository_id}

    def is_refused(command: tuple[str, ...], url: str) -> bool:
        docora.set_link(link, status="failed")
        environment = bullmq.environment(REDIS_URL=url)
        return bullmq.run(*(ids.get(each, each) for each in command), env=environment).code == 5

    for rule in rules("docora-bullmq"):
        with subtests.test(rule=rule), without_rule(docora.redis, rule, "docora-bullmq", name):
            docora.redis.script_flush()
            url = docora.redis_access.bullmq + ("?db=3" if rule == "+select" else "")
            refused = any(is_refused(command, url) for command in COMMANDS)
            assert refused is (rule not in OPTIONAL)
    docora.redis.acl_log_reset()


def test_the_user_for_monitoring_may_read_all_there_is(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    name = docora.redis_access.monitor_name
    link = docora.add_link()
    bullmq.delay(link)
    ids = {"APP": link.app_id, "REPO": link.repository_id}
    environment = bullmq.environment(
        DATABASE_URL=docora.database_access.monitor,
        REDIS_URL=docora.redis_access.monitor,
        DOCORA_OPS_DRIFT_GRACE="0",
    )
    for restriction in (nullcontext(), only_our_scripts(docora.redis, name)):
        with restriction:
            for command in READING:
                result = bullmq.run(*(ids.get(each, each) for each in command), env=environment)
                assert result.code in {0, 6}, (command, result)
