"""What a worker writes while it works on what strangers have named."""

from __future__ import annotations

import re
from pathlib import Path

from docora_ops.text import inert
from tests.support.docora import Docora
from tests.support.hostile_texts import TRICKS
from tests.support.hostile_world import fill_database, link_of
from tests.support.screens import assert_inert
from tests.support.terminal import on_terminal

CHOSEN = (0, 3, 9, 12)


def test_each_line_of_a_workers_log_is_one_event_in_letters_that_can_be_read(
    docora: Docora, tmp_path: Path
) -> None:
    fill_database(docora)
    for number in CHOSEN:
        link = link_of(number)
        assert docora.run("retry", link.app_id, link.repository_id).code == 0
    # RQ itself is told of a function that is not there, by another producer.
    docora.enqueue("other")
    docora.redis.hset("rq:job:other", "description", list(TRICKS)[3])
    env = {
        "DATABASE_URL": docora.database_access.worker,
        "REDIS_URL": docora.redis_access.worker,
        "ENCRYPTION_KEY": "00" * 32,
        "REPOS_BASE_PATH": str(tmp_path),
        "MAX_RETRY_ATTEMPTS": "1",
    }
    code, shown = on_terminal(docora, ["worker", "--burst"], columns=80, env=env)
    assert code == 0
    shown = shown.replace("\r\n", "\n")
    assert_inert(shown)
    assert "Listening on snapshot-queue" in shown, "colours are spelled out"
    for line in shown.splitlines():
        assert re.match(r"20\d\d-\d\d-\d\dT[\d:.]+Z [A-Z]+ \S", line), line
    for number in CHOSEN:
        name = inert(list(TRICKS)[number])
        assert f"{name}/{name} → {name}: failed, try 1: " in shown
        assert docora.status(link_of(number)) == "failed"
