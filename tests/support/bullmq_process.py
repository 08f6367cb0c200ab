"""The official `bullmq` package in processes of its own: a producer, or a worker.

Both speak JSON lists, one per line. The producer reads what to do and prints what it returns. The
worker prints the id of each job that begins, and reads its id and its error, if any, at its end.
A process can be killed, as a worker beside a Docora can, and leaves no connection open.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from bullmq import Queue, Worker  # type: ignore[attr-defined]


async def _read() -> AsyncIterator[list[Any]]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


def _write(*values: object) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201


async def produce(url: str, name: str) -> None:
    options: Any = {"connection": url, "autorun": False}
    queue: Any = Queue(name, options)
    async for what, *arguments in _read():
        answer = None
        match what:
            case "add":
                await queue.add(*arguments)
            case "pause":
                await queue.pause()
            case "take":  # its lock lives for 30 s
                taker: Any = Worker(name, _never, options)  # type: ignore[arg-type]
                answer = (await taker.moveToActive("token-of-a-test")).id
            case "state":
                job = await queue.getJob(*arguments)
                answer = await job.getState() if job else None
            case "remove" | "promote":
                await getattr(await queue.getJob(*arguments), what)()
        _write(answer)


async def work(url: str, name: str, client_name: str) -> None:
    ends: dict[str, asyncio.Future[str | None]] = {}

    async def process(job: Any, _token: str) -> None:
        ends[job.id] = asyncio.get_running_loop().create_future()
        _write(job.id)
        if error := await ends[job.id]:
            raise RuntimeError(error)

    options: Any = {"connection": url, "autorun": False, "stalledInterval": 500, "drainDelay": 1}
    worker: Any = Worker(name, process, options)  # type: ignore[arg-type]
    worker.clientName = client_name
    running = asyncio.create_task(worker.run())
    async for job_id, error in _read():
        ends[job_id].set_result(error)
    running.cancel()


async def _never(_job: Any, _token: str) -> None:
    raise AssertionError("this worker runs no job")


if __name__ == "__main__":
    role, *values = sys.argv[1:]
    asyncio.run(produce(*values) if role == "produce" else work(*values))
