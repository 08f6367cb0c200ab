"""The pair of servers: which database a Redis belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

TO_ACCEPT = "check DATABASE_URL and REDIS_URL; if both fit: docora-ops pair --accept"


class PairState(StrEnum):
    """Whether database and Redis belong together, by the mark that the last pair left."""

    UNMARKED = "unmarked"  # no change has left a mark yet, or Redis was emptied
    SAME = "same"
    MOVED = "moved"  # another name or server, with apps of the mark: an upgrade, restore or move
    OTHER = "other"  # none of the apps of the mark exists in this database


@dataclass(frozen=True)
class DatabaseIdentity:
    """What tells one database from another.

    system_identifier: of the server's data, which its standbys and physical copies share; None if
        the role may not read it.
    app_ids: up to 20 apps.
    """

    database: str
    system_identifier: str | None
    app_ids: Sequence[str]

    def __str__(self) -> str:
        return f"{self.database} (system {self.system_identifier or 'unknown'})"


@dataclass(frozen=True)
class PairMark:
    """What a change leaves in Redis about its database."""

    identity: DatabaseIdentity
    who: str
    left_at: datetime | None = None
    text: str = ""
    """The mark as it stands in Redis."""


@dataclass(frozen=True)
class Pair:
    """This database, and what Redis tells of the one that it belongs to."""

    state: PairState
    identity: DatabaseIdentity
    mark: PairMark | None

    @property
    def finding(self) -> str:
        """Says which database Redis belongs to."""
        if self.mark is None:
            return "no change has left a mark in Redis yet"
        if self.state is PairState.SAME:
            return "Redis belongs to this database"
        was, now = self.mark.identity, self.identity
        apps = "none of its apps" if self.state is PairState.OTHER else "its apps"
        return f"Redis belongs to database {was}, and this is {now}, which has {apps}"


def compare(mark: PairMark | None, identity: DatabaseIdentity, known: Sequence[str]) -> Pair:
    """Judges whether a database is the one of the mark.

    known: the apps of the mark that exist in the database.
    """
    if mark is None:
        return Pair(PairState.UNMARKED, identity, None)
    was, now = mark.identity.system_identifier, identity.system_identifier
    is_same = mark.identity.database == identity.database and (was == now or None in {was, now})
    if not known and (mark.identity.app_ids or not is_same):
        return Pair(PairState.OTHER, identity, mark)
    return Pair(PairState.SAME if is_same else PairState.MOVED, identity, mark)
