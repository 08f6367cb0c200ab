"""The official `bullmq` package, in a process of its own: `python -m tests.bullmq.producer URL`.

Reads what to do with which job as a JSON list, one per line, and prints a line when it is done.
"""

import asyncio
import json
import sys
from typing import Any

from bullmq import Queue, Worker  # type: ignore[attr-defined]

from tests.support.docora import QUEUE

TOKEN = "token-of-a-test"


async def _never(_job: Any, _token: str) -> None:
    raise AssertionError("this worker runs no job")


async def main(url: str) -> None:
    options: Any = {"connection": url, "autorun": False}
    queue: Any = Queue(QUEUE, options)
    worker: Any = Worker(QUEUE, _never, options)  # type: ignore[arg-type]
    while line := await asyncio.to_thread(sys.stdin.readline):
        what, *arguments = json.loads(line)
        match what:
            case "add":
                await queue.add("snapshot", *arguments)
            case "take":  # its lock lives for 30 s
                await worker.moveToActive(TOKEN)
            case "complete":
                await (await queue.getJob(*arguments)).moveToCompleted(None, TOKEN)
            case "fail":
                await (await queue.getJob(*arguments)).moveToFailed(RuntimeError("boom"), TOKEN)
        print(flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
