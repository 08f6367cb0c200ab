"""The files that an app has received."""

from __future__ import annotations

from collections.abc import Iterator

from docora_ops.database.postgres import Database
from docora_ops.database.session import Session
from docora_ops.links import LinkRef

READ_DELIVERIES = """
SELECT file_path, file_sha FROM docora.app_delivered_files
WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s
ORDER BY file_path COLLATE "C"
"""

RECORD_DELIVERY = """
INSERT INTO docora.app_delivered_files (app_id, repository_id, file_path, file_sha, delivered_at)
SELECT app_id, repository_id, $2, $3, now() FROM docora.app_repositories WHERE id = $1::uuid
ON CONFLICT (app_id, repository_id, file_path)
    DO UPDATE SET file_sha = excluded.file_sha, delivered_at = excluded.delivered_at
"""

REMOVE_DELIVERY = """
WITH removed AS (
    DELETE FROM docora.app_delivered_files
    WHERE app_id = $2 AND repository_id = $3 AND file_path = $4
)
SELECT FROM docora.app_repositories WHERE id = $1::uuid
"""


def read_deliveries(database: Database, ref: LinkRef) -> Iterator[tuple[str, str]]:
    """Yields path and SHA-256 of each file that the app has received, by the bytes of the paths.

    The connection must not be used for anything else until the last file was read.
    """
    values = {"app_id": ref.app_id, "repository_id": ref.repository_id}
    return ((path, sha) for path, sha in database.stream(READ_DELIVERIES, values))


class DeliveryRecord:
    """Records each delivery in a statement of its own, without waiting for Postgres.

    A call sends its statement and returns, so that the next file can be posted meanwhile. The next
    call or `flush` waits for the statement. Each returns False if the link is gone, and raises
    PostgresError.
    """

    def __init__(self, session: Session, ref: LinkRef) -> None:
        self._session = session
        self._ref = ref
        self._has_sent = False

    def record(self, path: str, sha: str) -> bool:
        """Records that the app has received the file."""
        return self._send(RECORD_DELIVERY, self._ref.id, path, sha)

    def remove(self, path: str) -> bool:
        """Records that the app has deleted the file."""
        ref = self._ref
        return self._send(REMOVE_DELIVERY, ref.id, ref.app_id, ref.repository_id, path)

    def flush(self) -> bool:
        """Waits for the last statement."""
        if not self._has_sent:
            return True
        self._has_sent = False
        return self._session.receive() > 0

    def _send(self, sql: str, *values: str) -> bool:
        link_exists = self.flush()
        self._session.send(sql, values)
        self._has_sent = True
        return link_exists
