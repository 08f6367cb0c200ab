"""The record of outcomes: how the snapshots of our workers ended, in Redis.

A stream has an entry for each snapshot, with two exceptions: snapshots that had nothing to do, and
successful ones that sent no file for a link that was synced before. A mass failure may push older
entries out of the stream, so all snapshots are also counted by period, app and outcome.

A try that waits for another job, or whose failure Postgres could not count, is not recorded.

Functions raise RedisError.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, cast

from redis import Redis

from docora_ops.jobs import JobEnd
from docora_ops.operations import Results
from docora_ops.queue.redis_client import answers_of, permits, redis_errors, text_of, whole_number

STREAM = "docora-ops:outcomes"
ENTRIES_KEPT = 100_000
PERIOD = 600  # seconds
COUNTS_KEPT = 8 * 86_400  # seconds
FAILURES = (JobEnd.FAILED, JobEnd.FAILED_AGAIN)  # ends after which the link has failed
LONGEST_ERROR = 200  # characters of an error in an entry
ALL_APPS = ""  # in place of an app id, for sums over all apps, which would take long to add up
_FIELD = "o"  # short, because each entry repeats it
_FILES = ":files"  # the end of a count's name
_PAGE = 2000  # entries that are read at once, which holds Redis for some milliseconds
MOST_SEARCHED = 20_000  # entries to search for failures, some of which may not be recorded


@dataclass(frozen=True, slots=True)
class SnapshotOutcome:
    """The result of a snapshot. Unknown fields are None, such as `seconds` if a worker was killed.

    link_id: the id of the link's row.
    outcome: how the job ended.
    try_number: counts from 1; exceeds `tries` if a scheduler has queued the failed link again.
    tries: the maximum number of tries.
    error_message: without secrets, truncated.
    size: bytes of the contents that were sent.
    commit_sha: the first 12 digits.
    """

    ended_at: datetime
    app_id: str
    repository_id: str
    link_id: str | None
    outcome: JobEnd
    try_number: int | None = None
    tries: int | None = None
    error_message: str | None = None
    created: int = 0
    updated: int = 0
    deleted: int = 0
    size: int = 0
    seconds: float | None = None
    worker: str | None = None
    commit_sha: str | None = None

    @property
    def files(self) -> int:
        """Counts the files that were created, updated or deleted at the app."""
        return self.created + self.updated + self.deleted


@dataclass(frozen=True, slots=True)
class PeriodCount:
    """The snapshots that ended with an outcome in the 10 minutes since `started_at`."""

    started_at: datetime
    outcome: JobEnd
    count: int
    files: int


@dataclass(frozen=True)
class OutcomeFilter:
    """Which outcomes to read.

    since: only outcomes of snapshots that ended at this time or later.
    app_id: only outcomes of this app.
    repository_id: only outcomes of the link of this repository and `app_id`.
    limit: only this number of outcomes, the newest; None means all.
    """

    since: datetime | None = None
    app_id: str | None = None
    repository_id: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Outcomes:
    """Entries of the record, newest first.

    reaches_back_to: the time of the oldest entry in the record, if earlier entries were asked for
        but have been dropped; otherwise None.
    """

    entries: Sequence[SnapshotOutcome]
    reaches_back_to: datetime | None


@dataclass(frozen=True)
class Counts:
    """The counts of the periods, oldest first.

    begin: the start of the first period with counts, but not before the periods that were asked
        for. None if no worker has written the record for 8 days.
    """

    counts: Sequence[PeriodCount]
    begin: datetime | None


@dataclass(frozen=True)
class AskedResults:
    """The links that `read_results` counts, each by its first result since `since`.

    links: row ids or job ids.
    """

    since: datetime
    links: Collection[str]


# The order of the values in an entry. Later versions add their values at the end.
_NAMES = [field.name for field in fields(SnapshotOutcome)][1:]


def record_outcome(client: Redis, outcome: SnapshotOutcome, *, keep_entry: bool) -> None:
    """Counts the end of a snapshot, and adds an entry if `keep_entry`, in one round trip."""
    counts = _counts_key(int(outcome.ended_at.timestamp()))
    with redis_errors(client), client.pipeline() as pipeline:
        if keep_entry:
            pipeline.xadd(STREAM, entry_of(outcome), maxlen=ENTRIES_KEPT, approximate=True)
        for app_id in (outcome.app_id, ALL_APPS):
            field = f"{app_id}:{outcome.outcome}"
            pipeline.hincrby(counts, field)
            if outcome.files:
                pipeline.hincrby(counts, field + _FILES, outcome.files)
        pipeline.expire(counts, COUNTS_KEPT)
        pipeline.execute()


def entry_of(outcome: SnapshotOutcome) -> Any:
    """Returns the fields of an entry, without `ended_at`: the id of an entry has its time."""
    error = (outcome.error_message or "")[:LONGEST_ERROR] or None
    shortened = replace(outcome, error_message=error)
    values = [getattr(shortened, name) for name in _NAMES]
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return {_FIELD: text.encode(errors="replace")}


def may_record(client: Redis) -> bool:
    """Tells whether our user may write the record; writes nothing.

    Raises the client's own RedisError, which workers expect.
    """
    key = _counts_key(0)
    entry, count = ("XADD", STREAM, "*", _FIELD, ""), ("HINCRBY", key, "x", 1)
    return permits(client, entry, count, ("EXPIRE", key, 1))


def read_outcomes(client: Redis, which: OutcomeFilter) -> Outcomes:
    """Returns the matching entries of the record."""
    ids = tuple(filter(None, (which.app_id, which.repository_id)))
    entries: list[SnapshotOutcome] = []
    at: datetime | None = None
    read = 0
    with redis_errors(client):
        for at, text in _walk(client):
            if which.since is not None and at < which.since:
                return Outcomes(entries, None)
            read += 1
            if _ids_in(text)[: len(ids)] == ids and (entry := _entry_of(at, text)):
                entries.append(entry)
                if len(entries) == which.limit:
                    return Outcomes(entries, None)
    return Outcomes(entries, at if read >= ENTRIES_KEPT else None)


def read_last_failures(
    client: Redis, links: Collection[tuple[str, str]]
) -> dict[tuple[str, str], datetime]:
    """Returns when these failed links last failed.

    Omits links whose last failure is not among the newest `MOST_SEARCHED` entries of the record.

    links: app id and repository id of each.
    """
    left, failures = set(links), {}
    with redis_errors(client):
        for at, text in islice(_walk(client), MOST_SEARCHED):
            if not left:
                break
            ids = _ids_in(text)[:2]
            # If the newest entry is no failure, the failure itself is not recorded.
            entry = _entry_of(at, text) if ids in left else None
            if entry and entry.outcome in FAILURES:
                failures[ids] = at
            left.discard(ids)
    return failures


def read_results(client: Redis, asked: Sequence[AskedResults]) -> list[Results | None]:
    """Counts the links by their first result, for each item of `asked`.

    Links that have entries but no result count as unfinished. Links without an entry do not count.
    If no link of an item has an entry, or if the record may not reach back to the item's `since`,
    returns None for the item.
    """
    if not asked:
        return []
    numbers_of: dict[str, tuple[int, ...]] = {}
    for number, item in enumerate(asked):
        alone = (number,)  # one tuple for all links, of which there may be a million
        for link in item.links:
            numbers_of[link] = numbers_of.get(link, ()) + alone
    ends: list[dict[str, JobEnd]] = [{} for _ in asked]
    read = 0
    first = at = min(item.since for item in asked)
    with redis_errors(client):
        for at, text in _walk(client):
            if at < first:
                break
            read += 1
            app_id, repository_id, row_id = _ids_in(text)
            job_id = f"{app_id}-{repository_id}"
            numbers = numbers_of.get(row_id, ()) + numbers_of.get(job_id, ())
            if numbers and (entry := _entry_of(at, text)):
                is_result = entry.outcome is JobEnd.SYNCED or entry.outcome in FAILURES
                for number in numbers:
                    # The walk goes back in time, so that the first result is set last.
                    if at >= asked[number].since and (is_result or job_id not in ends[number]):
                        ends[number][job_id] = entry.outcome
    results: list[Results | None] = []
    for item, known in zip(asked, ends, strict=True):
        counts = Counter(known.values())
        failed, synced = sum(counts[end] for end in FAILURES), counts[JobEnd.SYNCED]
        is_trimmed = read >= ENTRIES_KEPT and item.since < at
        unfinished = counts.total() - synced - failed
        is_known = known and not is_trimmed
        results.append(Results(synced, failed, gone=0, unfinished=unfinished) if is_known else None)
    return results


def read_counts(client: Redis, since: datetime, now: datetime, *, app_id: str = ALL_APPS) -> Counts:
    """Returns the counts by period, from the period that contains `since` to that of `now`."""
    fields = [f"{app_id}:{end}{of}" for end in JobEnd for of in ("", _FILES)]
    end, asked = int(now.timestamp()), int(since.timestamp())
    oldest, asked = (at - at % PERIOD for at in (end - COUNTS_KEPT, asked))
    periods = range(max(oldest, asked), end + 1, PERIOD)
    earlier = [_counts_key(period) for period in range(oldest, periods.start, PERIOD)]
    with redis_errors(client):
        pipeline = client.pipeline(transaction=False)
        for period in periods:
            pipeline.exists(_counts_key(period))
            pipeline.hmget(_counts_key(period), fields)
        answers = answers_of(pipeline)
        has_counts = bool(earlier) and client.exists(*earlier) > 0
    counts: list[PeriodCount] = []
    begin: datetime | None = None
    for period, exists, values in zip(periods, answers[::2], answers[1::2], strict=True):
        at = datetime.fromtimestamp(period, UTC)
        has_counts |= bool(exists)
        begin = begin or (at if has_counts else None)
        numbers = [whole_number(value) or 0 for value in values or ()]
        rows = zip(JobEnd, numbers[::2], numbers[1::2], strict=False)
        counts += [PeriodCount(at, *row) for row in rows if row[1]]
    return Counts(counts, begin)


def _counts_key(seconds: int) -> str:
    """Returns the key with the counts of the period in which this Unix time lies."""
    return f"{STREAM}:{seconds - seconds % PERIOD}"


def _walk(client: Redis) -> Iterator[tuple[datetime, bytes]]:
    """Yields time and text of all entries, newest first."""
    end = "+"
    while page := cast("Any", client.xrevrange(STREAM, end, count=_PAGE)):
        for entry_id, values in page:
            at = datetime.fromtimestamp(int(entry_id.partition(b"-")[0]) / 1000, UTC)
            yield at, values.get(_FIELD.encode(), b"")
        end = f"({text_of(page[-1][0])}"


def _ids_in(text: bytes) -> tuple[str, str, str]:
    """Returns app id, repository id and row id of an entry, without parsing all of it."""
    # Ids that a job can have need no escapes.
    parts = text_of(text).split('"', 6) + 6 * [""]
    return parts[1], parts[3], parts[5]


def _entry_of(at: datetime, text: bytes) -> SnapshotOutcome | None:
    """Parses an entry; returns None if another program has written it."""
    try:
        values = dict(zip(_NAMES, json.loads(text), strict=False))
        return SnapshotOutcome(at, **values | {"outcome": JobEnd(values["outcome"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
