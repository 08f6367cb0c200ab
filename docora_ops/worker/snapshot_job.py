"""The snapshot job: brings one link up to date."""

import logging
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from typing import NoReturn

from redis import RedisError
from redis.exceptions import NoPermissionError
from rq import get_current_job
from rq.timeouts import JobTimeoutException

from docora_ops.actions.encryption import decrypt
from docora_ops.database import Database, circuits
from docora_ops.database import link_scans as scans
from docora_ops.database.link_scans import Failure, Refusal
from docora_ops.errors import (
    AppHeldError,
    BrokenCloneError,
    ConfigurationError,
    DocoraOpsError,
    GitError,
    RedisDeniedError,
    RepositoryBusyError,
    ServerError,
    SnapshotError,
)
from docora_ops.jobs import JobEnd
from docora_ops.links import Link, LinkRef, LinkStatus, Payload
from docora_ops.queue.holds import find_hold, read_holds
from docora_ops.queue.outcomes import FAILURES, SnapshotOutcome
from docora_ops.queue.redis_client import redis_errors
from docora_ops.queue.rq_jobs import keep_files
from docora_ops.text import amount, inert, moment
from docora_ops.worker import host
from docora_ops.worker.clone import LOCK_PAUSE, Clone, Commit, File, Objects, RepositoryLock, scan
from docora_ops.worker.deliveries import Sender, compare, fits_index, post_sync_failed
from docora_ops.worker.git import Git
from docora_ops.worker.log import record, tell
from docora_ops.worker.resources import LOCK_TIMEOUT, Resources, current_resources
from docora_ops.worker.secrets import Cleaner
from docora_ops.worker.tries import Tries

_REDIS_PAUSE = 1  # seconds between two attempts to reach a server that is away
_RECORD_INTERVAL = 1  # seconds between two records of the number of files sent
_LONGEST_SNAPSHOT_PATH = 2048
_LARGEST_SIZE = 2**31 - 1  # the largest size of a file that Docora's column can hold
_NOTHING_TO_DO: Mapping[str, str] = {
    Refusal.GONE: "the link or its app is gone",
    Refusal.BUSY: "another job is at work on it",
    LinkStatus.SYNCED: "the link is marked as synced",
}


def snapshot(*, app_id: str, repository_id: str, **names: object) -> None:
    """Brings the link of an app to a repository up to date. Each job calls this function.

    Reads the link from the database, because the job's other arguments may be outdated. Does
    nothing if the link or the app is gone, or if another job is scanning the link. Raises
    SnapshotError, without secrets, if the link could not be brought up to date.

    names: the other arguments of the job; only the log uses them.
    """
    rq_job = get_current_job()
    assert rq_job is not None  # noqa: S101 - RQ runs it
    tries, ids = Tries(rq_job), (app_id, repository_id)
    about = {"app_id": app_id, "repository_id": repository_id, **names}
    try:
        resources = current_resources()
        job = _Snapshot(resources, ids, tries, about)
    except ConfigurationError as error:
        # The failure cannot be counted, so the link needs another try.
        tries.keep()
        message, end = inert(error.message), JobEnd.TRIED_AGAIN
        outcome = SnapshotOutcome(host.now(), *ids, None, end, error_message=message)
        tell(about, f"failed: {message}; {tries.outlook}", logging.ERROR, outcome)
        raise SnapshotError(message) from None
    succeeded = False
    try:
        # Not within `except`: the chained error would show its secrets in the log.
        failure = job.work()
        succeeded = failure is None
        if failure is not None:
            job.end_without_success(failure)
    finally:
        resources.leave(job.session, succeeded=succeeded, has_locks=job.has_locks)


class _NothingToDoError(Exception):
    """The link or its app is gone, or another job is at work on the link."""


class _Snapshot:
    """One job.

    about: ids and names of app and repository, for the log. `work` reads them from the database.
    """

    def __init__(
        self, resources: Resources, ids: tuple[str, str], tries: Tries, about: Mapping[str, object]
    ) -> None:
        self.resources, self.settings = resources, resources.settings
        self.ids, self.tries, self.about = ids, tries, about
        self.repository_id = ids[1]
        self.cleaner = Cleaner()
        self.started = time.monotonic()
        self.sent: Counter[str] = Counter()  # files by event
        self.size = 0  # bytes of their contents
        self.files_due_at = 0.0  # the next record of the number of files sent
        self.commit: Commit | None = None
        self.link: Link | None = None
        self.reads_repository = False  # while it does, a failure counts for the circuit
        self.session = resources.take_session()
        self.has_locks = True

    def work(self) -> Exception | None:
        """Runs the job. Returns its error; None if the link is synced or nothing is to be done."""
        try:
            self.link, payload = self._begin()
            self.about, number = asdict(payload), self.link.retry_count + 1
            tell(self.about, f"began, {self._try_number(number)}")
            self._bring_up_to_date(self.link, payload)
            sent = amount(self.sent.total(), "file")
            self._tell_end(JobEnd.SYNCED, f"synced, {sent} sent in {self._time}", try_number=number)
        except _NothingToDoError as reason:
            self._tell_end(JobEnd.NOTHING_TO_DO, f"nothing to do: {reason}, {self._time}")
        except MemoryError:  # its traceback would keep the memory in use
            kind = GitError if self.reads_repository else SnapshotError
            return kind("the job ran out of memory on this repository")
        except Exception as error:  # noqa: BLE001 - bugs count, too
            return error
        return None

    @property
    def _time(self) -> str:
        return f"{time.monotonic() - self.started:.1f} s"

    def _tell_end(
        self,
        end: JobEnd,
        text: str,
        level: int = logging.INFO,
        error_message: str | None = None,
        try_number: int | None = None,
    ) -> None:
        """Logs the end of the job, and adds it to the record of outcomes.

        Does not record `JobEnd.WAITS`, or a failure that was not counted.
        """
        outcome = SnapshotOutcome(
            host.now(),
            *self.ids,
            self.link.ref.id if self.link else None,
            end,
            try_number=try_number,
            tries=self.settings.max_retry_attempts,
            error_message=error_message,
            created=self.sent["create"],
            updated=self.sent["update"],
            deleted=self.sent["delete"],
            size=self.size,
            seconds=round(time.monotonic() - self.started, 3),
            worker=self.tries.job.worker_name,
            commit_sha=self.commit.sha[:12] if self.commit else None,
        )
        tell(self.about, text, level, outcome)
        if end is JobEnd.WAITS or (try_number is None and end in {JobEnd.TRIED_AGAIN, *FAILURES}):
            return
        was_synced = self.link is not None and self.link.status == LinkStatus.SYNCED
        is_routine = end is JobEnd.SYNCED and was_synced and not self.sent
        keep_entry = not (is_routine or end is JobEnd.NOTHING_TO_DO)
        record(self.resources.client, outcome, keep_entry=keep_entry)

    def _try_number(self, number: int) -> str:
        # When the scheduler queues a failed link, the count goes on.
        most = self.settings.max_retry_attempts
        return f"try {number} of {most}" if number <= most else f"try {number}"

    def _begin(self) -> tuple[Link, Payload]:
        """Takes the lock of the link, and sets the link to `scanning`.

        Returns the link as it was before, and its payload. Raises _NothingToDoError if the link is
        gone or is being scanned. If the link is locked without being scanned, waits for the lock,
        and raises SnapshotError after a minute.
        """
        end = time.monotonic() + LOCK_TIMEOUT
        while (begun := scans.begin_scan(self.session, *self.ids)) is Refusal.LOCKED:
            if time.monotonic() > end:
                raise SnapshotError(f"another session holds the link's lock for {LOCK_TIMEOUT} s")
            time.sleep(0.05)
        if isinstance(begun, Refusal):
            raise _NothingToDoError(_NOTHING_TO_DO[begun])
        return begun

    def _go_on_unless(self, refusal: Refusal | None) -> None:
        """Raises _NothingToDoError if the link is gone, SnapshotError if its lock is lost."""
        if refusal is Refusal.GONE:
            raise _NothingToDoError(_NOTHING_TO_DO[refusal])
        if refusal is Refusal.LOST:
            raise SnapshotError(
                "its session of Postgres has not got the link's lock: DATABASE_URL must lead to "
                "Postgres itself, or to a proxy that pools sessions"
            )

    def _bring_up_to_date(self, link: Link, payload: Payload) -> None:
        settings, client = self.settings, self.resources.client
        key = settings.require_encryption_key()
        token, auth_key = payload.github_token_encrypted, payload.client_auth_key_encrypted
        self.cleaner.learn((token, auth_key))
        self.cleaner.learn_url(payload.base_url)
        if token is not None:
            token = decrypt(token, key, "the GitHub token")
        auth_key = decrypt(auth_key, key, "the app's auth key")
        self.cleaner.learn((token, auth_key))

        with redis_errors(client):
            host.keep_clock(client)  # signatures contain the time
        lock = RepositoryLock(client, payload.repository_name, link.ref.job_id)
        protocols, timeout = settings.git_protocols, settings.git_timeout
        git = Git(payload.github_url, token, protocols, timeout, lock.renew)
        clone = Clone(settings.repos_base_path, payload.owner, payload.name, git, lock)
        try:
            with closing(Objects(git, clone.path)) as objects:
                fetched = self._fetch(clone, objects)
                if fetched is not None:
                    self._deliver(link, objects, *fetched, auth_key)
        except BrokenCloneError:
            clone.remove()
            raise
        self._end(link, fetched)

    def _end(self, link: Link, fetched: tuple[Commit, Sequence[File]] | None) -> None:
        """Stores the commit, and sets the link to `synced`."""
        if fetched is None:
            with self.session.transaction():
                self._go_on_unless(scans.end_scan(self.session, link.ref))
            return
        commit, files = fetched
        rows = [
            (file.path, file.sha, min(file.size, _LARGEST_SIZE))
            for file in files
            if len(file.path) <= _LONGEST_SNAPSHOT_PATH and fits_index(file.path)
        ]
        stored = commit.sha, commit.branch[:255]
        # If nothing was sent, the commit is probably stored already.
        if not self.sent and scans.end_unchanged_scan(self.session, link.ref, *stored, len(rows)):
            self.has_locks = False
            return
        with self.session.transaction():
            scans.store_snapshot(self.session, self.repository_id, *stored, rows)
            self._go_on_unless(scans.end_scan(self.session, link.ref))

    def _fetch(self, clone: Clone, objects: Objects) -> tuple[Commit, Sequence[File]] | None:
        """Fetches and scans the newest commit. Returns None if there has never been a commit.

        Raises GitError if a repository that had a commit before shows no branch. The empty answer
        of a gateway looks the same to git, and must not delete files at the apps.
        """
        self.reads_repository = True
        self.commit = commit = clone.sync()
        if commit is not None:
            files = scan(clone.path, commit.sha, objects)
        elif scans.had_commit(self.session, self.repository_id):
            raise GitError(
                "the repository shows no branch, though it was delivered before: nothing is deleted"
            )
        else:
            text = "the repository has no branch, so nothing is sent"
            tell(self.about, text, logging.WARNING)
        circuits.reset_circuits(self.session, [self.repository_id])
        self.reads_repository = False
        return None if commit is None else (commit, files)

    def _deliver(
        self, link: Link, objects: Objects, commit: Commit, files: Sequence[File], auth_key: str
    ) -> None:
        changes = compare(files, scans.read_deliveries(self.session, link.ref))
        counts = Counter(change.event for change in changes)
        text = ", ".join(f"{counts[event]} to {event}" for event in ("delete", "create", "update"))
        tell(self.about, f"{commit.branch} at {commit.sha[:12]}: {text}")
        if not changes:
            return
        self._go_on_unless(scans.may_deliver(self.session, link.ref))
        payload = link.payload
        webhook = self.resources.webhook(payload.base_url, payload.app_id, auth_key)
        sender = Sender(webhook, self._obey_hold, objects, payload, commit.sha, self.settings)
        for change in changes:
            self._record_files(len(changes))
            sender.send(change)
            self.sent[change.event] += 1
            self.size += change.file.size if change.file else 0
            sha = None if change.event == "delete" else change.sha
            if not scans.record_delivery(self.session, link.ref, change.path, sha):
                self._go_on_unless(Refusal.GONE)

    def _record_files(self, total: int) -> None:
        """Records in Redis how many of `total` files the job has sent, at most once a second.

        After an error of Redis, records no more. The job goes on.
        """
        if time.monotonic() >= self.files_due_at:
            self.files_due_at = time.monotonic() + _RECORD_INTERVAL
            try:
                keep_files(self.resources.client, self.tries.job, self.sent.total(), total)
            except RedisError:
                self.files_due_at = float("inf")

    def _obey_hold(self) -> None:
        """Raises AppHeldError if the app is held.

        Waits while Redis gives no answer, because the app may be held by then.
        """
        job_id = LinkRef("", *self.ids).job_id
        while True:
            try:
                hold = find_hold(self.resources.client, job_id, host.timestamp())
            except NoPermissionError:  # the ACL is that of an older version: the worker says so
                return
            except RedisError:  # a fault of the host, and no failure of the link
                time.sleep(_REDIS_PAUSE)
                continue
            if hold is not None:
                raise AppHeldError(f"the app is {hold.sentence}")
            return

    def end_without_success(self, error: Exception) -> None:
        """Ends the job after an error: counts a failure of the link.

        If the host, a hold or another job is to blame, counts none, and has RQ queue the job again.
        Raises SnapshotError, unless `_fail` finds that there is nothing to do.
        """
        self.session.close()  # releases the link's lock, which the updates of the link need
        message = self.cleaner.clean(self._describe(error))
        if isinstance(error, RepositoryBusyError):
            self._give_back(message, JobEnd.WAITS, f"queued again in {LOCK_PAUSE} s", LOCK_PAUSE)
        if isinstance(error, AppHeldError):
            sent = amount(self.sent.total(), "file")
            out = f"; {sent} of this snapshot already sent" if self.sent else ""
            self._give_back(f"{message}{out}", JobEnd.HELD, "queued again")
        is_hosts_fault = host.is_scarcity(error) and self.resources.is_hosts_fault()
        if is_hosts_fault and self.tries.may_blame_host():
            self._give_back(message, JobEnd.CUT_OFF, "the host's fault, queued again at once")
        self._fail(error, message)

    def _open_database(self) -> Database:
        """Returns a connection that waits up to a minute for locks, as of the job's old session."""
        return Database(self.settings.model_copy(update={"lock_timeout": LOCK_TIMEOUT}))

    def _give_back(self, message: str, end: JobEnd, when: str, pause: int = 0) -> NoReturn:
        """Makes the link pending, and raises SnapshotError, so that RQ queues the job again.

        when, pause: when the job is queued again, as text for the log and in seconds.
        """
        self.tries.give_back(pause)
        # If this fails, the next try updates the link.
        with suppress(DocoraOpsError), closing(self._open_database()) as database:
            scans.release_scan(database, *self.ids)
        text = f"{when}; no failure is counted: {message}"
        level = logging.INFO if end is JobEnd.WAITS else logging.WARNING
        self._tell_end(end, text, level, message)
        raise SnapshotError(inert(message))  # `rq worker` logs the text as it is

    def _fail(self, error: Exception, message: str) -> None:
        """Counts a failure of the link, and raises SnapshotError.

        A GitError also counts for the circuit. If the circuit opens, tells the apps. If the link is
        failed now, no further try follows. If the failure can't be counted, makes sure that another
        try follows. If the link is gone or marked as synced, only logs and records that there is
        nothing to do.
        """
        settings, circuit, ending = self.settings, None, None
        limit = settings.max_retry_attempts
        with closing(self._open_database()) as database:
            try:
                if isinstance(error, GitError):
                    circuit = circuits.git_failed(
                        database,
                        self.repository_id,
                        threshold=settings.circuit_breaker_threshold,
                        cooldown=settings.circuit_breaker_cooldown_ms / 1000,
                    )
                failure = Failure(*self.ids, message, self.tries.left, limit)
                ending = scans.fail_scan(database, failure)
            except ServerError as trouble:
                text = f"its link can't be marked: {trouble.message}"
                tell(self.about, text, logging.WARNING)
        # Comes first, because the job's time limit may cut off the rest.
        end = self.tries.settle(ending, limit, self.link.status if self.link else None)
        if circuit is not None and circuit.opened and self.link is not None:
            text = f"the circuit is open until {moment(circuit.open_until)}"
            tell(self.about, text, logging.WARNING)
            self._announce(self.link, circuit, message)
        if ending is not None and end is JobEnd.NOTHING_TO_DO:
            reason = _NOTHING_TO_DO[ending.status]
            self._tell_end(end, f"nothing to do: {reason}, {self._time}: {message}")
            return
        number = ending.retry_count if ending and ending.is_counted else None
        counted = "not counted" if number is None else self._try_number(number)
        text = f"failed after {self._time}, {counted}: {message}; {self.tries.outlook}"
        self._tell_end(end, text, logging.WARNING, message, number)
        raise SnapshotError(inert(message))  # `rq worker` logs the text as it is

    def _announce(self, link: Link, circuit: circuits.Circuit, message: str) -> None:
        """Tells apps that the circuit is open, except apps that are held.

        Logs errors and raises none, so that the job can end.
        """
        try:
            with closing(Database(self.settings)) as database:
                apps = circuits.recipients(database, self.repository_id)
            with suppress(RedisDeniedError):  # the ACL is that of an older version
                held = read_holds(self.resources.client)
                apps = [app for app in apps if app.app_id not in held]
            post_sync_failed(apps, link.payload, circuit, message, self.settings)
        except Exception as error:  # noqa: BLE001 - such as the time limit of the job
            text = f"the apps were not told: {self._describe(error)}"
            tell(self.about, text, logging.WARNING)

    def _describe(self, error: Exception) -> str:
        if isinstance(error, DocoraOpsError):
            return error.message
        if isinstance(error, JobTimeoutException):
            return f"the snapshot took longer than {self.settings.job_timeout} s"
        if isinstance(error, OSError) and host.is_scarcity(error):
            return f"the job could not go on: {host.words_of(error)}"
        # The text of the exception may contain secrets, so only its places are logged.
        frames = traceback.extract_tb(error.__traceback__)
        places = "; ".join(f"{frame.filename}:{frame.lineno}" for frame in frames)
        text = f"a bug in docora-ops: {type(error).__name__}"
        tell(self.about, f"{text} at {places}", logging.ERROR)
        return text
