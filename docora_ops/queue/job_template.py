"""The hash of a snapshot job in Redis: RQ builds one, and each link fills in its own values."""

import pickle
import zlib
from base64 import b64decode
from contextlib import suppress
from dataclasses import fields

from redis import Redis
from rq import Queue, Retry

from docora_ops.jobs import JOB_FUNCTION, QUEUE_NAME
from docora_ops.links import Payload
from docora_ops.settings import FAILURE_TTL, RESULT_TTL, Settings

_VARIABLE_FIELDS = frozenset({"data", "description", "created_at", "enqueued_at"})
_PAYLOAD_FIELDS = tuple(field.name for field in fields(Payload))
_SHOWN_ARGUMENTS = frozenset({"app_name", "owner", "name"})
_MOST_OF_A_CALL = 1 << 20  # bytes of a pickled call that are read
_MOST_OF_A_TRACEBACK = 1 << 24  # bytes of an unpacked traceback that are read
_LINES = 10  # of a traceback that are shown


class JobTemplate:
    """Builds the fields of a job's hash.

    RQ builds one job, whose fields serve all: a Job object for each link would take longer than
    all the rest.
    """

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._function = JOB_FUNCTION
        delays = settings.retry_delays
        job = Queue(QUEUE_NAME, connection=client).create_job(
            JOB_FUNCTION,
            timeout=settings.job_timeout,
            result_ttl=RESULT_TTL,
            failure_ttl=FAILURE_TTL,
            description="of no link",
            retry=Retry(max=len(delays), interval=delays) if delays else None,
        )
        # The fields that all jobs have in common, names and values alternating.
        self.fields: list[str] = []
        for name, value in job.to_dict().items():
            if name not in _VARIABLE_FIELDS:
                self.fields += (name, str(getattr(value, "value", value)))

    def data(self, payload: Payload, *, is_rescan: bool) -> bytes:
        """Returns the call of a link's job, pickled.

        RQ reads it with or without compression, which would take as long as the push.
        """
        # Not dataclasses.asdict, which takes several times as long.
        arguments: dict[str, object] = {name: getattr(payload, name) for name in _PAYLOAD_FIELDS}
        arguments["is_rescan"] = is_rescan
        call = (self._function, None, (), arguments)
        return pickle.dumps(call, protocol=pickle.HIGHEST_PROTOCOL)


def call_of(data: bytes) -> dict[str, str]:
    """Returns the function of a stored call, and the arguments that are no secrets.

    Reads the opcodes of the pickle and unpickles nothing. Returns nothing for other bytes.
    """
    import pickletools  # slow to import

    with suppress(zlib.error):
        data = zlib.decompressobj().decompress(data, _MOST_OF_A_CALL)
    found: dict[str, str] = {}
    memo: dict[object, str] = {}
    key = text = ""
    try:
        for opcode, argument, _ in pickletools.genops(data[:_MOST_OF_A_CALL]):
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
                elif text and key in _SHOWN_ARGUMENTS:
                    found.setdefault(key, text)
    except Exception:  # noqa: BLE001 - strange bytes can raise anything
        return found
    return found


def traceback_of(exc_string: bytes) -> str:
    """Returns the last lines of a traceback that RQ has packed; empty for other bytes."""
    try:
        text = zlib.decompressobj().decompress(b64decode(exc_string), _MOST_OF_A_TRACEBACK)
    except (ValueError, zlib.error):
        return ""
    return "\n".join(text.decode(errors="replace").rstrip().split("\n")[-_LINES:])
