"""What a snapshot job looks like in Redis: written by RQ once, filled in for each link."""

from __future__ import annotations

import pickle
import zlib

from redis import Redis
from rq import Queue, Retry
from rq.utils import now, utcformat

from docora_ops.models import Payload
from docora_ops.settings import FAILURE_TTL, RESULT_TTL, Settings

_VARIABLE_FIELDS = frozenset({"data", "description", "created_at", "enqueued_at"})
_SAMPLE = Payload("a", "a", "r", "u", "o", "n", "b", None, "k")


class JobTemplate:
    """The fields of a job's hash, built by RQ itself for one job and reused for the rest.

    Having RQ build and describe one Job object per link costs more than everything else together.
    """

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._function = settings.job_function
        delays = settings.retry_delays
        job = Queue(settings.queue_name, connection=client).create_job(
            settings.job_function,
            kwargs=_arguments(_SAMPLE, is_rescan=False),
            timeout=settings.job_timeout,
            result_ttl=RESULT_TTL,
            failure_ttl=FAILURE_TTL,
            description=_SAMPLE.description,
            job_id=_SAMPLE.job_id,
            retry=Retry(max=len(delays), interval=delays) if delays else None,
        )
        self._constants = {
            name: _as_text(value)
            for name, value in job.to_dict().items()
            if name not in _VARIABLE_FIELDS
        }

    def fields(self) -> list[str]:
        """Names and values, alternating, of the fields that jobs queued now have in common."""
        timestamp = utcformat(now())
        fields = {**self._constants, "created_at": timestamp, "enqueued_at": timestamp}
        return [text for item in fields.items() for text in item]

    def data(self, payload: Payload, *, is_rescan: bool) -> bytes:
        """The call, in the form of RQ's default serializer."""
        call = (self._function, None, (), _arguments(payload, is_rescan=is_rescan))
        return zlib.compress(pickle.dumps(call, protocol=pickle.HIGHEST_PROTOCOL))


def _arguments(payload: Payload, *, is_rescan: bool) -> dict[str, object]:
    # Written out: dataclasses.asdict takes three times as long, for each link.
    return {
        "app_id": payload.app_id,
        "app_name": payload.app_name,
        "repository_id": payload.repository_id,
        "github_url": payload.github_url,
        "owner": payload.owner,
        "name": payload.name,
        "base_url": payload.base_url,
        "github_token_encrypted": payload.github_token_encrypted,
        "client_auth_key_encrypted": payload.client_auth_key_encrypted,
        "is_rescan": is_rescan,
    }


def names_link(data: bytes, app_id: str) -> bool:
    """Whether a job's stored call was made for this app. Looks at the bytes, unpickles nothing.

    Pickle writes a short string as an opcode, its length in bytes and its UTF-8 bytes, and
    remembers it, and after a key comes its value.
    """
    try:
        call = zlib.decompressobj().decompress(data, 1 << 20)
    except zlib.error:
        call = data
    text = app_id.encode()
    return b"\x8c\x06app_id\x94\x8c" + bytes([len(text)]) + text in call


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return str(value.value) if hasattr(value, "value") else str(value)
