"""`verify`: have links received the files of their stored commits? Writes nothing."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from docora_ops.actions.docora import Docora
from docora_ops.database.verify import ComparedLink, compare_links
from docora_ops.links import LinkStatus, batches

_BATCH = 20
_MOST_LISTED = 1000


class Verdict(StrEnum):
    """The result of the comparison of one link."""

    PROVEN = "proven"  # exactly the files of the stored commit were delivered
    DIFFERS = "differs"
    UNCERTAIN = "uncertain"  # it differs, but the scan of another link may have stored the commit
    NO_COMMIT = "no_commit"  # nothing to compare with
    FAILED = "failed"
    AT_WORK = "at_work"  # pending, scanning, or changing while it was compared


@dataclass(frozen=True)
class Verification:
    """How far a comparison is. `differing`: up to 1,000 links that differ or are uncertain."""

    total: int
    compared: int
    verdicts: dict[str, int]
    differing: Sequence[ComparedLink]

    @property
    def has_problems(self) -> bool:
        """Tells whether a link certainly differs, or is failed."""
        return bool(self.verdicts.get(Verdict.DIFFERS) or self.verdicts.get(Verdict.FAILED))


def verify(docora: Docora, ids: Sequence[str]) -> Iterator[Verification]:
    """Compares delivery records with stored commits; yields how far it is.

    A difference counts only if a second look, `drift_grace` seconds later, finds the same.

    ids: row ids. Raises PostgresError.
    """
    verdicts: Counter[str] = Counter()
    suspects: dict[str, ComparedLink] = {}
    differing: list[ComparedLink] = []
    yield Verification(len(ids), 0, {}, [])
    for batch in batches(ids, _BATCH):
        for link in compare_links(docora.database, batch):
            if judge(link) in {Verdict.DIFFERS, Verdict.UNCERTAIN}:
                suspects[link.id] = link
            else:
                verdicts[judge(link)] += 1
        yield Verification(len(ids), verdicts.total() + len(suspects), dict(verdicts), [])
    if suspects:
        time.sleep(docora.settings.drift_grace)
    for batch in batches(list(suspects), _BATCH):
        for link in compare_links(docora.database, batch):
            verdict = judge(link) if link == suspects[link.id] else Verdict.AT_WORK
            verdicts[verdict] += 1
            if verdict is not Verdict.AT_WORK and len(differing) < _MOST_LISTED:
                differing.append(link)
    yield Verification(len(ids), verdicts.total(), dict(verdicts), differing)


def judge(link: ComparedLink) -> Verdict:
    """Returns the verdict of one look."""
    if link.status == LinkStatus.FAILED:
        return Verdict.FAILED
    if link.status != LinkStatus.SYNCED:
        return Verdict.AT_WORK
    if not link.has_commit:
        return Verdict.NO_COMMIT
    if not link.differs:
        return Verdict.PROVEN
    return Verdict.DIFFERS if link.is_own else Verdict.UNCERTAIN
