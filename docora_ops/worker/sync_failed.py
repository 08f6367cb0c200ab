"""Tells apps that the circuit of one of their repositories is open."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from docora_ops.database.circuits import Circuit, Recipient
from docora_ops.errors import SnapshotError
from docora_ops.links import PublicPayload
from docora_ops.settings import Settings
from docora_ops.text import inert, moment
from docora_ops.worker import redis_clock
from docora_ops.worker.deliveries import encode, repository_fields
from docora_ops.worker.log import log
from docora_ops.worker.secrets import Cleaner, decrypt
from docora_ops.worker.webhook import Connections, Webhook

_TIMEOUT = 10
_THREADS = 8


def post_sync_failed(
    recipients: Sequence[Recipient],
    payload: PublicPayload,
    circuit: Circuit,
    message: str,
    settings: Settings,
) -> None:
    """Posts `sync_failed` with git's error to every app; failures are only logged."""
    key = settings.require_encryption_key()

    def post(recipient: Recipient) -> None:
        body = encode(
            {
                "event": "sync_failed",
                "repository": repository_fields(payload),
                "error": {"type": "git_failure", "message": message},
                "circuit_breaker": {
                    "status": "open",
                    "consecutive_failures": circuit.consecutive_failures,
                    "threshold": settings.circuit_breaker_threshold,
                    "cooldown_until": moment(circuit.open_until),
                },
                "retry_count": recipient.retry_count,
                "timestamp": moment(redis_clock.now()),
            }
        )
        cleaner = Cleaner()
        cleaner.learn_url(recipient.base_url)
        try:
            auth_key = decrypt(recipient.client_auth_key_encrypted, key, "its auth key")
            with (
                closing(Connections()) as connections,
                Webhook(
                    recipient.base_url, recipient.app_id, auth_key, connections, _TIMEOUT
                ) as webhook,
            ):
                webhook.post("sync_failed", body)
        except SnapshotError as error:
            log.warning(
                "app %s was not told of the open circuit: %s",
                inert(recipient.app_id),
                inert(cleaner.clean(": ".join(filter(None, (error.message, error.hint))))),
            )

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(post, recipients))
