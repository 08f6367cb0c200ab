"""The pair of servers: which database a Redis belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

PAIR_KEY = "docora-ops:pair"
"""The key in Redis that holds the mark."""
TO_ACCEPT = "check DATABASE_URL and REDIS_URL; if both fit: docora-ops pair --accept"


class PairState(StrEnum):
    """Whether database and Redis belong together, by the mark that the last pair left."""

    UNMARKED = "unmarked"  # no change has left a mark yet, or Redis was emptied
    UNKNOWN = "unknown"  # our user may not read the mark
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


@dataclass(frozen=True)
class StoredMark:
    """What Redis holds in place of the mark.

    mark: None if there is none, or it can't be read.
    text: the mark as it stands in Redis; empty if there is none.
    is_permitted: our user may read it.
    """

    mark: PairMark | None = None
    text: str = ""
    is_permitted: bool = True


@dataclass(frozen=True)
class Pair:
    """This database, and what Redis tells of the one that it belongs to.

    text: the mark as it stands in Redis; empty if there is none.
    """

    state: PairState
    identity: DatabaseIdentity
    mark: PairMark | None
    text: str = ""

    @property
    def to_leave(self) -> DatabaseIdentity:
        """Returns the identity for the next mark.

        Keeps a known system identifier of the same database: another role, which may not read it,
        would take it away in turn.
        """
        if self.state is PairState.SAME and self.mark and not self.identity.system_identifier:
            known = self.mark.identity.system_identifier
            return replace(self.identity, system_identifier=known)
        return self.identity

    @property
    def finding(self) -> str:
        """Says which database Redis belongs to."""
        if self.state is PairState.UNKNOWN:
            return f"our user may not read {PAIR_KEY}, which names the database of this Redis"
        if self.mark is None:
            return "no change has left a mark in Redis yet"
        if self.state is PairState.SAME:
            return "Redis belongs to this database"
        was, now = self.mark.identity, self.identity
        apps = "none of its apps" if self.state is PairState.OTHER else "its apps"
        return f"Redis belongs to database {was}, and this is {now}, which has {apps}"


def compare(stored: StoredMark, identity: DatabaseIdentity, known: Sequence[str]) -> Pair:
    """Judges whether a database is the one of the mark.

    known: the apps of the mark that exist in the database.
    """
    mark, text = stored.mark, stored.text
    if mark is None:
        state = PairState.UNMARKED if stored.is_permitted else PairState.UNKNOWN
        return Pair(state, identity, None, text)
    was, now = mark.identity.system_identifier, identity.system_identifier
    is_same = mark.identity.database == identity.database and (was == now or None in {was, now})
    if not known and (mark.identity.app_ids or not is_same):
        return Pair(PairState.OTHER, identity, mark, text)
    return Pair(PairState.SAME if is_same else PairState.MOVED, identity, mark, text)
