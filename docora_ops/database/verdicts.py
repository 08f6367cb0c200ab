"""Reading what snapshots have come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docora_ops.database.postgres import Database
from docora_ops.text import mask

ID_SIZE = 16
"""Bytes of a row's id."""

# Nothing is said of the links that are still being worked on.
READ_VERDICTS = """
SELECT followed.position - 1, l.status, l.app_id, l.repository_id, l.last_error
FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS followed(id, position)
LEFT JOIN app_repositories l ON l.id = followed.id
WHERE l.id IS NULL OR l.status IN ('synced', 'failed')
"""


# A link that is synced or gone needs no look at its job.
READ_UNFINISHED = """
SELECT l.status, l.app_id, l.repository_id
FROM app_repositories l WHERE l.id = ANY (%(ids)s::uuid[]) AND l.status <> 'synced'
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What has come of the link whose id stands at this position."""

    position: int
    status: str | None
    """None: the link is gone."""
    app_id: str
    repository_id: str
    error: str | None

    @property
    def job_id(self) -> str:
        """The fixed id of the link's job."""
        return f"{self.app_id}-{self.repository_id}"


def read_verdicts(database: Database, ids: bytes) -> Sequence[Verdict]:
    """Of these links, given as the bytes of their ids, those that are synced, failed or gone."""
    rows = database.rows(READ_VERDICTS, _ids(ids))
    return [
        Verdict(position, status, app_id, repository_id, error and mask(error))
        for position, status, app_id, repository_id, error in rows
    ]


@dataclass(frozen=True, slots=True)
class FollowedLink:
    """A link that is followed and not in sync."""

    status: str
    app_id: str
    repository_id: str

    @property
    def job_id(self) -> str:
        """The fixed id of the link's job."""
        return f"{self.app_id}-{self.repository_id}"


def read_unfinished(database: Database, ids: bytes) -> list[FollowedLink]:
    """Returns the links that are not in sync, of those with these row ids."""
    return [FollowedLink(*row) for row in database.rows(READ_UNFINISHED, _ids(ids))]


def _ids(ids: bytes) -> dict[str, object]:
    return {"ids": "{" + ids.hex(",", ID_SIZE) + "}"}
