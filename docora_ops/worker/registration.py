"""The registration of a worker under its name, which heartbeats renew."""

from __future__ import annotations

import time
from typing import Any

from redis.client import Pipeline
from rq.worker_registration import register

from docora_ops.errors import WorkerNameTakenError
from docora_ops.interrupts import held_back
from docora_ops.worker import redis_clock
from docora_ops.worker.lasting_horse import LastingHorseWorker

_HEARTBEAT_PAUSE = 1


class RegisteredWorker(LastingHorseWorker):
    """A worker that takes no other worker's name, and sends few heartbeats."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._next_heartbeat = 0.0
        self._is_registered = False
        """True if this process has registered the worker's name."""

    def register_birth(self) -> None:
        """Registers the name. Raises WorkerNameTakenError.

        Signals are held back, so that the worker always knows whether the name is its own.
        """
        with held_back():
            try:
                super().register_birth()  # type: ignore[no-untyped-call]
            except ValueError as error:
                raise WorkerNameTakenError(
                    f"a worker named {self.name!r} is at work already",
                    hint="give another --name; that of a killed worker is free two minutes later",
                ) from error
            self._is_registered = True

    def serialize(self) -> dict[Any, Any]:
        """Returns the fields of the registration, with the error of this host's clock."""
        return super().serialize() | {"clock_ahead": round(redis_clock.seconds_ahead())}

    def register_death(self) -> None:
        """Removes the name, unless it is another worker's."""
        if self._is_registered:
            super().register_death()  # type: ignore[no-untyped-call]
            self._is_registered = False

    def teardown(self) -> None:
        """Cleans up once, if this process has registered the name."""
        if self._is_registered:
            super().teardown()

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Sends a heartbeat in one round trip, unless there was one within the last second.

        RQ sends three for each job, of three round trips each.
        """
        if pipeline is not None:
            self._beat(timeout, pipeline)
        elif time.monotonic() >= self._next_heartbeat:
            with self.connection.pipeline() as own:
                self._beat(timeout, own)
                own.execute()
            self._next_heartbeat = time.monotonic() + _HEARTBEAT_PAUSE

    def _beat(self, timeout: int | None, pipeline: Pipeline) -> None:
        """Adds a heartbeat by Redis's clock and the whole registration, which Redis may have lost.

        RQ itself writes the moment only: after a flush, or a pause after which another worker has
        cleaned up, nobody would ever see the worker again.
        """
        super().heartbeat(timeout, pipeline)
        if self._is_registered and not self.is_horse:
            self.last_heartbeat = redis_clock.now()
            pipeline.hset(self.key, mapping=self.serialize() | {"state": self.get_state()})
            register(self, pipeline)
