"""The sentences about the two backends: what is wrong with their workers, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from docora_ops.jobs import Backend


@dataclass(frozen=True)
class Advice:
    """The sentences about one backend."""

    to_start_workers: str
    to_resume: str  # suspended workers
    only_others: str  # only workers of the other backend run
    to_switch: str  # to the other backend
    others_beside: str  # workers of both backends run
    to_stop_others: str


ADVICE = MappingProxyType(
    {
        Backend.RQ: Advice(
            to_start_workers="docora-ops worker",
            to_resume="docora-ops resume",
            only_others="this Docora runs BullMQ workers, and no RQ worker",
            to_switch="set DOCORA_OPS_BACKEND=bullmq",
            others_beside="a BullMQ worker of Docora runs beside the RQ queue: each link may be "
            "worked on twice",
            to_stop_others="run Docora with RUN_MODE=api",
        ),
        Backend.BULLMQ: Advice(
            to_start_workers="run Docora with RUN_MODE=all or worker",
            to_resume="see docora-ops help workers",
            only_others="workers of RQ listen on the queue, and none of BullMQ",
            to_switch="set DOCORA_OPS_BACKEND=rq",
            others_beside="a worker of RQ runs beside Docora's own: each link may be worked on "
            "twice",
            to_stop_others="stop the workers of RQ",
        ),
    }
)
