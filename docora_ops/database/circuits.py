"""The circuit breaker of a repository, and the apps that learn of an open circuit."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from docora_ops.database.postgres import Database

CLOSE_CIRCUIT_IF_NEEDED = """
UPDATE repositories
SET consecutive_failures = 0, circuit_open_until = NULL, updated_at = now()
WHERE repository_id = %(repository_id)s
  AND (consecutive_failures <> 0 OR circuit_open_until IS NOT NULL)
"""

COUNT_GIT_FAILURE = """
UPDATE repositories r
SET consecutive_failures = r.consecutive_failures + 1, updated_at = now(),
    circuit_open_until = CASE WHEN r.consecutive_failures + 1 >= %(threshold)s
        THEN now() + make_interval(secs => %(cooldown)s) ELSE r.circuit_open_until END
FROM (
    SELECT repository_id, circuit_open_until > now() AS was_open FROM repositories
    WHERE repository_id = %(repository_id)s FOR UPDATE
) before
WHERE r.repository_id = before.repository_id
RETURNING r.consecutive_failures, r.circuit_open_until,
    r.consecutive_failures >= %(threshold)s AND before.was_open IS NOT TRUE
"""

APPS_OF_REPOSITORY = """
SELECT a.app_id, a.base_url, a.client_auth_key_encrypted, l.retry_count
FROM app_repositories l JOIN apps a USING (app_id)
WHERE l.repository_id = %(repository_id)s ORDER BY a.app_id
"""


@dataclass(frozen=True)
class Circuit:
    """A repository's circuit breaker after a git failure."""

    consecutive_failures: int
    open_until: datetime | None
    opened: bool
    """True if this failure opened the circuit."""


@dataclass(frozen=True)
class Recipient:
    """An app that receives `sync_failed`."""

    app_id: str
    base_url: str
    client_auth_key_encrypted: str = field(repr=False)
    retry_count: int


def git_succeeded(database: Database, repository_id: str) -> None:
    """Closes the repository's circuit and sets its failures to 0."""
    database.execute(CLOSE_CIRCUIT_IF_NEEDED, {"repository_id": repository_id})


def git_failed(
    database: Database, repository_id: str, *, threshold: int, cooldown: float
) -> Circuit | None:
    """Counts a failure; from `threshold` on each opens the circuit for `cooldown` seconds.

    Returns None if the repository is gone.
    """
    values = {"repository_id": repository_id, "threshold": threshold, "cooldown": cooldown}
    row = database.row(COUNT_GIT_FAILURE, values)
    return Circuit(*row) if row else None


def recipients(database: Database, repository_id: str) -> list[Recipient]:
    """Returns every app that is linked to the repository."""
    rows = database.rows(APPS_OF_REPOSITORY, {"repository_id": repository_id})
    return [Recipient(*row) for row in rows]
