"""What a snapshot job looks like in Redis: written by RQ once, filled in for each link."""

from __future__ import annotations

import pickle
import zlib
from base64 import b64decode

from redis import Redis
from rq import Queue, Retry

from docora_ops.links import Payload, possible_ids
from docora_ops.settings import FAILURE_TTL, RESULT_TTL, Settings

_VARIABLE_FIELDS = frozenset({"data", "description", "created_at", "enqueued_at"})
WHAT_CALL_SAYS = frozenset({"app_name", "owner", "name"})
"""Arguments of a job that may be shown."""
_MOST_OF_A_CALL = 1 << 20
"""Bytes."""
_STEP = 1 << 14
_MOST_STEPS = 1 << 10
"""A traceback is read up to so many steps, of so many bytes, and the last one is kept."""
_LINES = 10
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
        """Names and values, alternating, of the fields that all jobs have in common."""
        return [text for item in self._constants.items() for text in item]

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
    """Whether a job's stored call was made for this app. Looks at the bytes, unpickles nothing."""
    return _argument("app_id", app_id) in _call(data)


def calls_for_link(data: bytes, function: str, job_id: str) -> tuple[str, str] | None:
    """App and repository id, if the stored call is one of `function` with ids that form `job_id`.

    Looks at the bytes, unpickles nothing.
    """
    call = _call(data)
    if _text(function) not in call:
        return None
    for app_id, repository_id in possible_ids(job_id):
        if (
            _argument("app_id", app_id) in call
            and _argument("repository_id", repository_id) in call
        ):
            return app_id, repository_id
    return None


def call_of(data: bytes) -> dict[str, str]:
    """What a stored call has as texts, of `WHAT_CALL_SAYS`, and its `function`; nothing secret.

    Reads the pickle's opcodes one after the other and unpickles nothing. What is not a pickle says
    nothing.
    """
    import pickletools  # seldom needed

    found: dict[str, str] = {}
    memo: dict[object, str] = {}
    key = text = ""
    try:
        for opcode, argument, _ in pickletools.genops(_call(data)):
            if opcode.name == "MEMOIZE":
                memo[len(memo)] = text
            elif opcode.name in {"BINPUT", "LONG_BINPUT"}:
                memo[argument] = text
            else:
                key, text = text, memo.get(argument, "") if "GET" in opcode.name else ""
                if "UNICODE" in opcode.name and isinstance(argument, str):
                    text = argument
                if text and not found:
                    found["function"] = text
                elif text and key in WHAT_CALL_SAYS:
                    found.setdefault(key, text)
    except Exception:  # noqa: BLE001 - whatever strange bytes lead to
        return found
    return found


def traceback_of(exc_string: bytes) -> str:
    """The last lines of a traceback, as RQ stores it beside a result; empty if it is none."""
    tail = b""
    unpacker = zlib.decompressobj()
    try:
        packed = b64decode(exc_string)
        for _ in range(_MOST_STEPS):
            tail = (tail + unpacker.decompress(packed, _STEP))[-_STEP:]
            packed = unpacker.unconsumed_tail
            if not packed:
                break
    except (ValueError, zlib.error):
        return ""
    return "\n".join(tail.decode(errors="replace").rstrip().split("\n")[-_LINES:])


def _call(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MOST_OF_A_CALL)
    except zlib.error:
        return data[:_MOST_OF_A_CALL]


def _text(value: str) -> bytes:
    """As pickle writes a short string: an opcode, its length in bytes and its UTF-8 bytes."""
    text = value.encode()
    return b"\x8c" + bytes([len(text) & 0xFF]) + text


def _argument(name: str, value: str) -> bytes:
    """Pickle remembers a key once it has written it, and then comes the value."""
    return _text(name) + b"\x94" + _text(value)


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return str(value.value) if hasattr(value, "value") else str(value)
