"""Comparing the delivered files of links with the files of their stored commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from docora_ops.links import LinkIds


class FileDifference(StrEnum):
    """How a file's delivery record differs from the stored commit."""

    MISSING = "missing"  # in the commit, and not delivered
    OUTDATED = "outdated"  # delivered with another SHA-256
    EXTRA = "extra"  # delivered, and not in the commit


class Doubt(StrEnum):
    """Why the scan of another link may have stored the commit that a link differs from."""

    SCANNED_EARLIER = "scanned_earlier"  # the link's last scan is older than the commit
    SCANNED_LATER = "scanned_later"  # the link's last scan ended long after the commit was stored
    SCANNED_TOGETHER = "scanned_together"  # another one ended since the commit was stored, too
    OTHER_PENDING = "other_pending"  # another link's scan may have been cut off
    OTHER_FAILED = "other_failed"  # the same, and its last try is over


@dataclass(frozen=True, slots=True)
class DifferingFile:
    """One file that differs."""

    path: str
    difference: FileDifference


@dataclass(frozen=True, slots=True)
class DifferingLink(LinkIds):
    """A link whose delivered files differ from those of the stored commit.

    The names are None if the app or the repository is gone by now. `examples`: the first files of
    each kind of difference; empty if very many links differ. `doubt`: None if files are certainly
    missing, outdated or extra.
    """

    app_id: str
    app_name: str | None
    repository_id: str
    repository_name: str | None
    last_scanned_at: datetime | None
    missing: int
    outdated: int
    extra: int
    examples: Sequence[DifferingFile]
    doubt: Doubt | None


@dataclass(frozen=True)
class Verification:
    """The result of a comparison. Each of the `links` is counted once.

    proven: exactly the files of the stored commit were delivered.
    uncertain: the files differ, but the scan of another link may have stored the commit.
    not_comparable: there is no stored commit.
    not_synced: skipped, because the status is not `synced`.
    scanning: skipped, because it or another link of its repository is being scanned.
    changing: skipped, because the delivery records have changed between the two looks.
    """

    links: int
    proven: int
    differing: int
    uncertain: int
    not_comparable: int
    not_synced: int
    scanning: int
    changing: int
    differing_links: Sequence[DifferingLink]
    uncertain_links: Sequence[DifferingLink]
