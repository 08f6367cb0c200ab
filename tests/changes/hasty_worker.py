"""`docora-ops worker` that gives up a killed or paused process after 3 s, not after minutes."""

import sys
from datetime import timedelta

from rq import intermediate_queue

from docora_ops.__main__ import main
from docora_ops.worker import clone, lease, pool, snapshot_job


def change(module: object, **values: object) -> None:
    assert values.keys() <= vars(module).keys()
    vars(module).update(values)


if __name__ == "__main__":
    change(pool, _INTERVAL=0.5, _EXECUTION_TTL=3, _CLEANING=1, _LONGEST_CLEANING=3)
    change(lease, TTL=2)
    change(clone, _LOCK_TTL=3)
    change(snapshot_job, LOCK_PAUSE=1)
    change(intermediate_queue, timedelta=lambda minutes: timedelta(seconds=3 * minutes))
    sys.exit(main())
