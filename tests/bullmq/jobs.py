"""Jobs of Docora's own queue in every state, made by the official `bullmq` package."""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from tests.support.docora import QUEUE, Docora, Result
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink


class Producer:
    """The process that makes the jobs of all tests: it takes a second to start."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "tests.bullmq.producer", url]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, what: str, *arguments: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "\n"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Bullmq:
    def __init__(self, docora: Docora, produce: Producer) -> None:
        self.docora = docora
        self._produce = produce
        # Docora's package for Node writes it, the one for Python does not.
        docora.redis.hset(self.key("meta"), "version", "bullmq:5.66.4")

    def run(self, *arguments: str) -> Result:
        return self.docora.run(*arguments, env=self.environment())

    def environment(self, **changes: str) -> dict[str, str]:
        return {"DOCORA_OPS_BACKEND": "bullmq", **changes}

    def key(self, name: str) -> str:
        return f"bull:{QUEUE}:{name}"

    def add(self, link: TestLink, **options: Any) -> None:
        """A job that waits, as Docora's scheduler makes it."""
        names = {"app_name": "Acme Search", "owner": "octo", "name": "api", "isRescan": True}
        keys = {"github_token_encrypted": GITHUB_TOKEN, "client_auth_key_encrypted": AUTH_KEY}
        backoff = {"type": "exponential", "delay": 60_000}
        made = {"jobId": link.job_id, "attempts": 5, "backoff": backoff, **options}
        self._produce("add", asdict(link) | names | keys, made)

    def delay(self, link: TestLink) -> None:
        self.add(link, delay=60_000)

    def start(self, link: TestLink) -> None:
        self.add(link)
        self._produce("take")

    def stall(self, link: TestLink) -> None:
        """A job that a killed worker has left active."""
        self.start(link)
        self.docora.redis.delete(self.key(f"{link.job_id}:lock"))

    def try_once(self, link: TestLink) -> None:
        """A job that failed, and is tried again after a while."""
        self.start(link)
        self._produce("fail", link.job_id)

    def complete(self, link: TestLink) -> None:
        self.start(link)
        self._produce("complete", link.job_id)

    def fail(self, link: TestLink) -> None:
        self.add(link, attempts=1)
        self._produce("take")
        self._produce("fail", link.job_id)
