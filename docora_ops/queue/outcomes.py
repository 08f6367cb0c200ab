"""The record of outcomes: how the snapshots of our workers ended, in Redis.

A stream has an entry for each snapshot that failed, sent files, or began with a pending link, as
after a change, a failed try, or for a new link. Beside the stream, all snapshots are counted by
period, app and outcome: a mass failure, which fills the stream, must not remove the counts.
Functions raise RedisError.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, cast

from redis import Redis

from docora_ops.jobs import JobEnd
from docora_ops.queue.redis_answers import answers_of, permits, text_of, whole_number
from docora_ops.queue.redis_client import server_time
from docora_ops.queue.redis_errors import redis_errors

STREAM = "docora-ops:outcomes"
ENTRIES_KEPT = 100_000
PERIOD = 600  # seconds
COUNTS_KEPT = 8 * 86_400  # seconds
LONGEST_ERROR = 200  # characters of an error in an entry
_FIELD = "o"  # short, because each entry repeats it
_FILES = ":files"  # the end of a count's name
_PAGE = 2000  # entries that are read at once, which holds Redis for some milliseconds


@dataclass(frozen=True, slots=True)
class SnapshotOutcome:
    """How a snapshot ended. Only its worker knew the fields that are None.

    link_id: the id of the link's row.
    outcome: what the job left in Postgres.
    try_number, tries: which try of its link it was, and of how many. `try_number` is larger if a
        scheduler has queued the failed link again.
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
    """The snapshots of an app that ended with an outcome in the 10 minutes since `started_at`."""

    started_at: datetime
    app_id: str
    outcome: JobEnd
    count: int
    files: int


@dataclass(frozen=True)
class Outcomes:
    """Entries of the record, newest first.

    reaches_back_to: the time of the oldest entry, if the record may lack older ones that were asked
        for. None if it lacks none, or has no entry at all.
    """

    entries: Sequence[SnapshotOutcome]
    reaches_back_to: datetime | None


@dataclass(frozen=True)
class Counts:
    """The counts of the periods, oldest first.

    is_kept: whether any period has counts; if not, no worker has written the record for 8 days.
    reaches_back_to: the start of the first period with counts, if earlier ones were asked for.
    """

    counts: Sequence[PeriodCount]
    is_kept: bool
    reaches_back_to: datetime | None


# In the order in which an entry has their values; those of later versions are added at the end.
_NAMES = [field.name for field in fields(SnapshotOutcome)][1:]


def record_outcome(client: Redis, outcome: SnapshotOutcome, *, keep_entry: bool) -> None:
    """Counts the end of a snapshot, and adds an entry if `keep_entry`, in one round trip."""
    counts = _counts_key(_period_of(outcome.ended_at.timestamp()))
    field = f"{outcome.app_id}:{outcome.outcome}"
    with redis_errors(client), client.pipeline() as pipeline:
        if keep_entry:
            error = (outcome.error_message or "")[:LONGEST_ERROR] or None
            shortened = replace(outcome, error_message=error)
            text = _text_of([getattr(shortened, name) for name in _NAMES])
            entry = {_FIELD: text.encode(errors="replace")}
            pipeline.xadd(STREAM, cast("Any", entry), maxlen=ENTRIES_KEPT, approximate=True)
        pipeline.hincrby(counts, field)
        if outcome.files:
            pipeline.hincrby(counts, field + _FILES, outcome.files)
        pipeline.expire(counts, COUNTS_KEPT)
        pipeline.execute()


def may_record(client: Redis) -> bool:
    """Tells whether our user may write the record; writes nothing.

    Raises the client's own RedisError, which workers expect.
    """
    key = _counts_key(0)
    entry, count = ("XADD", STREAM, "*", _FIELD, ""), ("HINCRBY", key, "x", 1)
    return permits(client, entry, count, ("EXPIRE", key, 1))


def read_outcomes(
    client: Redis,
    *,
    since: datetime | None = None,
    app_id: str | None = None,
    repository_id: str | None = None,
    limit: int | None = None,
) -> Outcomes:
    """Returns the entries since then, of one app or of one link.

    repository_id: needs `app_id`.
    limit: return only the newest entries.
    """
    ids = list(filter(None, (app_id, repository_id)))
    # The beginning of the array that `record_outcome` writes.
    prefix = _text_of(ids)[:-1].encode() + b"," if ids else b""
    entries: list[SnapshotOutcome] = []
    at: datetime | None = None
    with redis_errors(client):
        for at, text in _walk(client):
            if since is not None and at < since:
                return Outcomes(entries, None)
            if text.startswith(prefix) and (entry := _entry_of(at, text)):
                entries.append(entry)
                if len(entries) == limit:
                    return Outcomes(entries, None)
    return Outcomes(entries, at)


def read_counts(
    client: Redis, since: datetime, until: datetime | None = None, *, app_id: str | None = None
) -> Counts:
    """Returns the counts of the periods from that of `since` to that of `until`, of one app or all.

    until: the period that goes on now if None.
    """
    fields = [f"{app_id}:{end}{of}" for end in JobEnd for of in ("", _FILES)]
    with redis_errors(client):
        now = int(server_time(client))
        oldest = _period_of(now - COUNTS_KEPT)
        first = max(oldest, _period_of(since.timestamp()))
        last = _period_of(min(now, until.timestamp() if until else now))
        periods = range(first, last + 1, PERIOD)
        earlier = [_counts_key(period) for period in range(oldest, first, PERIOD)]
        pipeline = client.pipeline(transaction=False)
        for period in periods:
            pipeline.exists(_counts_key(period))
            if app_id is None:
                pipeline.hgetall(_counts_key(period))
            else:
                pipeline.hmget(_counts_key(period), fields)
        answers = answers_of(pipeline)
        reaches_back = bool(earlier) and client.exists(*earlier) > 0
    counts: list[PeriodCount] = []
    known = [period for period, is_known in zip(periods, answers[::2], strict=True) if is_known]
    for period, answer in zip(periods, answers[1::2], strict=True):
        if isinstance(answer, dict):
            row = {text_of(name): value for name, value in answer.items()}
        else:
            row = dict(zip(fields, answer or (), strict=False))
        counts += _counts_of(_at(period), row)
    start = _at(known[0]) if known and not reaches_back and known[0] > first else None
    return Counts(counts, bool(known) or reaches_back, start)


def _walk(client: Redis) -> Iterator[tuple[datetime, bytes]]:
    """Yields time and text of all entries, newest first."""
    end = "+"
    while page := cast("Any", client.xrevrange(STREAM, end, count=_PAGE)):
        for entry_id, values in page:
            yield _at(int(entry_id.partition(b"-")[0]) / 1000), values.get(_FIELD.encode(), b"")
        end = f"({text_of(page[-1][0])}"


def _entry_of(at: datetime, text: bytes) -> SnapshotOutcome | None:
    """Parses an entry; returns None if it is of another program."""
    try:
        values = dict(zip(_NAMES, json.loads(text), strict=False))
        return SnapshotOutcome(at, **values | {"outcome": JobEnd(values["outcome"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _counts_of(at: datetime, row: Mapping[str, bytes | None]) -> Iterator[PeriodCount]:
    """Yields the counts in the hash of a period; skips fields of other programs."""
    for name, value in row.items():
        app_id, _, end = name.rpartition(":")
        if (count := whole_number(value)) and end in set(JobEnd):
            files = whole_number(row.get(name + _FILES)) or 0
            yield PeriodCount(at, app_id, JobEnd(end), count, files)


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _counts_key(period: int) -> str:
    return f"{STREAM}:{period}"


def _period_of(seconds: float) -> int:
    return int(seconds) - int(seconds) % PERIOD


def _text_of(values: Sequence[object]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
