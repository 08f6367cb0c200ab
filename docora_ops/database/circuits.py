"""The circuit breakers of repositories, and the apps to notify of an open circuit."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from docora_ops.database.postgres import Database

_HAS_FAILURES = """
    repository_id = ANY (%(ids)s::text[])
    AND (consecutive_failures <> 0 OR circuit_open_until IS NOT NULL)
"""

READ_CIRCUITS_TO_RESET = f"SELECT repository_id FROM docora.repositories WHERE {_HAS_FAILURES}"

# Sorted, so that two transactions that reset the same circuits can't deadlock. FOR UPDATE would
# block the worker's deliveries and new links, whose foreign keys refer to the repository.
LOCK_CIRCUITS_TO_RESET = f"{READ_CIRCUITS_TO_RESET} ORDER BY repository_id FOR NO KEY UPDATE"

RESET_CIRCUITS = f"""
UPDATE docora.repositories
SET consecutive_failures = 0, circuit_open_until = NULL, updated_at = now()
WHERE {_HAS_FAILURES}
"""

COUNT_GIT_FAILURE = """
UPDATE docora.repositories r
SET consecutive_failures = r.consecutive_failures + 1, updated_at = now(),
    circuit_open_until = CASE WHEN r.consecutive_failures + 1 >= %(threshold)s
        THEN now() + make_interval(secs => %(cooldown)s) ELSE r.circuit_open_until END
FROM (
    SELECT repository_id, circuit_open_until > now() AS was_open FROM docora.repositories
    WHERE repository_id = %(repository_id)s FOR UPDATE
) before
WHERE r.repository_id = before.repository_id
RETURNING r.consecutive_failures, r.circuit_open_until,
    r.consecutive_failures >= %(threshold)s AND before.was_open IS NOT TRUE
"""

APPS_OF_REPOSITORY = """
SELECT a.app_id, a.base_url, a.client_auth_key_encrypted, l.retry_count
FROM docora.app_repositories l JOIN docora.apps a USING (app_id)
WHERE l.repository_id = %(repository_id)s ORDER BY a.app_id
"""


@dataclass(frozen=True)
class Circuit:
    """A repository's circuit breaker after a git failure."""

    consecutive_failures: int
    open_until: datetime | None
    opened: bool  # by this failure


@dataclass(frozen=True)
class Recipient:
    """An app to send the event `sync_failed` to."""

    app_id: str
    base_url: str
    client_auth_key_encrypted: str = field(repr=False)
    retry_count: int  # of the app's link


def git_failed(
    database: Database, repository_id: str, *, threshold: int, cooldown: float
) -> Circuit | None:
    """Counts a git failure. From `threshold` failures on, opens the circuit for `cooldown` seconds.

    Returns the new state of the circuit; None if the repository is gone.
    """
    values = {"repository_id": repository_id, "threshold": threshold, "cooldown": cooldown}
    rows = database.rows(COUNT_GIT_FAILURE, values)
    return Circuit(*rows[0]) if rows else None


def circuits_to_reset(database: Database, repository_ids: Collection[str]) -> set[str]:
    """Returns which of these repositories have git failures, or a circuit to close."""
    rows = database.rows(READ_CIRCUITS_TO_RESET, {"ids": list(repository_ids)})
    return {id_ for (id_,) in rows}


def reset_circuits(
    database: Database, repository_ids: Collection[str], *, wait: bool = True
) -> set[str]:
    """Closes circuits and sets git failures to 0. Returns the ids of changed repositories.

    wait: wait for rows locked by other sessions instead of skipping them. Raises LinkLockedError on
        timeout.
    """
    lock = LOCK_CIRCUITS_TO_RESET if wait else f"{LOCK_CIRCUITS_TO_RESET} SKIP LOCKED"
    ids = [id_ for (id_,) in database.rows(lock, {"ids": list(repository_ids)})]
    if ids:
        database.execute(RESET_CIRCUITS, {"ids": ids})
    return set(ids)


def recipients(database: Database, repository_id: str) -> list[Recipient]:
    """Returns every app that is linked to the repository."""
    rows = database.rows(APPS_OF_REPOSITORY, {"repository_id": repository_id})
    return [Recipient(*row) for row in rows]
