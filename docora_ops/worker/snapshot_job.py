"""The snapshot job: brings one link up to date."""

import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from functools import partial

from redis import RedisError
from redis.exceptions import NoPermissionError
from rq import get_current_job
from rq.timeouts import JobTimeoutException

from docora_ops.actions.encryption import decrypt
from docora_ops.database import Database, Session, circuits
from docora_ops.database import link_scans as scans
from docora_ops.database.link_scans import Failure, Refusal
from docora_ops.errors import (
    AppHeldError,
    BrokenCloneError,
    ConfigurationError,
    DocoraOpsError,
    GitError,
    HoldsUnreadableError,
    RedisDeniedError,
    ServerError,
    SnapshotError,
)
from docora_ops.jobs import JobEnd
from docora_ops.links import Link, LinkStatus, Payload
from docora_ops.queue import Redis, connect
from docora_ops.queue.holds import find_hold, read_holds
from docora_ops.queue.outcomes import SnapshotOutcome
from docora_ops.queue.redis_errors import redis_errors
from docora_ops.queue.rq_jobs import keep_files
from docora_ops.settings import Settings, load_settings
from docora_ops.text import amount, inert, moment
from docora_ops.worker import host
from docora_ops.worker.clone import Clone, Commit, File, Objects, RepositoryLock, scan
from docora_ops.worker.deliveries import Sender, compare, fits_index, post_sync_failed
from docora_ops.worker.git import git_for
from docora_ops.worker.log import fields_of_link, log, name_of_link, record
from docora_ops.worker.recovery import Tries
from docora_ops.worker.secrets import Cleaner
from docora_ops.worker.webhook import Webhook

DELIVERY_TIMEOUT = 30  # seconds for the POST of a file, or of a chunk
LOCK_TIMEOUT = 60  # seconds to wait for a change of the link to commit, and for the link's lock
_REDIS_PAUSE = 1  # seconds between two attempts to reach a server that is away
_STATEMENT_TIMEOUT = 300  # seconds, at least: one statement lists the files of a large repository
_RECORD_INTERVAL = 1  # seconds between two records of the number of files sent
_MOST_WEBHOOKS = 16  # apps to which a connection stays open
_LONGEST_SNAPSHOT_PATH = 2048
_LARGEST_SIZE = 2**31 - 1  # the largest size of a file that Docora's column can hold
_NOTHING_TO_DO = {
    Refusal.GONE: "the link or its app is gone",
    Refusal.BUSY: "another job is at work on it",
}


class Resources:
    """What the jobs of one process share: settings, and connections to Redis, Postgres and apps.

    client: of Redis; None if the process runs a single job, which closes all connections.
    """

    def __init__(self, settings: Settings, client: Redis | None = None) -> None:
        self.settings = settings
        self.client = client or connect(settings)
        self._is_shared = client is not None
        # Only our own worker answers: see `use_worker`.
        self.is_hosts_fault: Callable[[], bool] = lambda: False
        self._session: Session | None = None
        self._webhooks: dict[tuple[str, str, str], Webhook] = {}

    def take_session(self) -> Session:
        """Returns the session of the last job if it is still open, or a new one."""
        session, self._session = self._session, None
        if session is not None:
            if session.is_open:  # Postgres may have been restarted since
                return session
            session.close()
        timeout = max(self.settings.statement_timeout, _STATEMENT_TIMEOUT)
        timeouts = {"lock_timeout": LOCK_TIMEOUT, "statement_timeout": timeout}
        return Session(self.settings.model_copy(update=timeouts))

    def webhook(self, *app: *tuple[str, str, str]) -> Webhook:
        """Returns the webhook of an app. An earlier job may have left its connection open.

        app: base_url, id and auth key.
        """
        if app not in self._webhooks:
            if len(self._webhooks) >= _MOST_WEBHOOKS:
                self._close_webhooks()
            self._webhooks[app] = Webhook(*app, DELIVERY_TIMEOUT)
        return self._webhooks[app]

    def leave(self, session: Session, *, succeeded: bool, has_locks: bool = True) -> None:
        """Releases the locks of a job. Closes its connections unless another job may use them."""
        if succeeded and self._is_shared:
            with suppress(DocoraOpsError):  # the link is synced, so the job has not failed
                if has_locks:
                    session.release()
                self._session = session
                return
        session.close()
        self._close_webhooks()

    def _close_webhooks(self) -> None:
        while self._webhooks:
            self._webhooks.popitem()[1].close()


_resources: Resources | None = None


def use_settings(settings: Settings, client: Redis | None = None) -> None:
    """Sets the settings, and a client of Redis if there is one, for the jobs of this process."""
    global _resources  # noqa: PLW0603 - RQ calls a plain function
    _resources = Resources(settings, client)


def use_worker(is_hosts_fault: Callable[[], bool]) -> None:
    """Lets the jobs of this process ask their worker whether an error is the fault of the host."""
    if _resources is not None:
        _resources.is_hosts_fault = is_hosts_fault


def snapshot(*, app_id: str, repository_id: str, **names: object) -> None:
    """Brings the link of an app to a repository up to date. RQ calls this for each job.

    Reads everything but the two ids from the database, since it may have changed. Does nothing if
    the link or the app is gone, or if another job is scanning the link. Raises SnapshotError,
    without secrets, if the job failed.

    names: the other arguments of the job; only the log uses them.
    """
    tries = Tries(get_current_job())
    about = {"app_id": app_id, "repository_id": repository_id, **names}
    try:
        resources = _resources or Resources(load_settings())
        job = _Snapshot(resources, (app_id, repository_id), tries, about)
    except ConfigurationError as error:
        # The failure cannot be counted, so the link needs another try.
        tries.keep()
        message, name = inert(error.message), name_of_link(about)
        fields = fields_of_link(about) | {"outcome": JobEnd.TRIED_AGAIN, "error_message": message}
        log.error("%s: failed: %s; %s", name, message, tries.outlook, extra=fields)
        raise SnapshotError(message) from None
    succeeded = False
    try:
        # Not within `except`: the chained error would show its secrets in the log.
        failure = job.work()
        if isinstance(failure, AppHeldError | HoldsUnreadableError):
            job.wait_for_release(failure)
        elif failure is not None and host.is_scarcity(failure) and resources.is_hosts_fault():
            job.wait_again(failure)
        elif failure is not None:
            job.fail(failure)
        succeeded = failure is None
    finally:
        resources.leave(job.session, succeeded=succeeded, has_locks=job.has_locks)


class _NothingToDoError(Exception):
    """The link or its app is gone, or another job is at work on the link."""


class _Progress:
    """Records how many files a job has sent: at the beginning, then at most once a second."""

    def __init__(self, client: Redis, tries: Tries, total: int) -> None:
        self._client, self._job, self._total = client, tries.job, total
        self._due_at = 0.0

    def tell(self, sent: int) -> None:
        """Records it if it is time to. Stops after an error, which is no failure of the job."""
        if self._job is None or time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + _RECORD_INTERVAL
        try:
            keep_files(self._client, self._job, sent, self._total)
        except RedisError:
            self._due_at = float("inf")


class _Snapshot:
    def __init__(
        self,
        resources: Resources,
        ids: tuple[str, str],
        tries: Tries,
        about: Mapping[str, object],
    ) -> None:
        self.resources = resources
        self.settings = resources.settings
        self.ids = ids
        self.repository_id = ids[1]
        self.tries = tries
        self.name, self.fields = name_of_link(about), fields_of_link(about)
        self.cleaner = Cleaner()
        self.started = time.monotonic()
        self.sent: Counter[str] = Counter()  # files by event
        self.size = 0  # bytes of their contents
        self.commit: Commit | None = None
        self.link: Link | None = None
        self.reads_repository = False  # while it does, a failure counts for the circuit
        self.session = resources.take_session()
        self.has_locks = True
        self.session_id = 0

    def work(self) -> Exception | None:
        """Runs the job. Returns any error, which the caller counts as a failure."""
        try:
            # Known before the lock is taken: the session may fail at any moment afterwards.
            self.session_id = self.session.id
            self.link, payload = self._begin()
            about = asdict(payload)
            self.name, self.fields = name_of_link(about), fields_of_link(about)
            number = self._try_number(self.link.retry_count + 1)
            log.info("%s: began, %s", self.name, number, extra=self.fields)
            self._bring_up_to_date(self.link, payload)
            sent, fields = amount(self.sent.total(), "file"), self._end_fields(JobEnd.SYNCED)
            log.info("%s: synced, %s sent in %s", self.name, sent, self._time, extra=fields)
            self._record(JobEnd.SYNCED, try_number=self.link.retry_count + 1)
        except _NothingToDoError as reason:
            fields = self._end_fields(JobEnd.NOTHING_TO_DO)
            log.info("%s: nothing to do: %s, %s", self.name, reason, self._time, extra=fields)
            self._record(JobEnd.NOTHING_TO_DO)
        except MemoryError:  # its traceback would keep the memory in use
            kind = GitError if self.reads_repository else SnapshotError
            return kind("the job ran out of memory on this repository")
        except Exception as error:  # noqa: BLE001 - bugs count, too
            return error
        return None

    @property
    def _time(self) -> str:
        return f"{time.monotonic() - self.started:.1f} s"

    def _end_fields(self, outcome: JobEnd, error_message: str | None = None) -> dict[str, object]:
        """Returns the fields of the event that ends the job."""
        seconds = round(time.monotonic() - self.started, 3)
        end = {"outcome": outcome, "seconds": seconds, "files": self.sent.total()}
        return self.fields | end | {"error_message": error_message}

    def _record(
        self, end: JobEnd, error_message: str | None = None, *, try_number: int | None = None
    ) -> None:
        """Adds the end of the job to the record of outcomes."""
        was_synced = self.link is not None and self.link.status == LinkStatus.SYNCED
        is_routine = end is JobEnd.NOTHING_TO_DO or (
            end is JobEnd.SYNCED and was_synced and not self.sent
        )
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
            worker=self.tries.worker,
            commit_sha=self.commit.sha[:12] if self.commit else None,
        )
        record(self.resources.client, outcome, keep_entry=not is_routine)

    def _try_number(self, number: int) -> str:
        # When the scheduler queues a failed link, the count goes on.
        most = self.settings.max_retry_attempts
        return f"try {number} of {most}" if number <= most else f"try {number}"

    def _begin(self) -> tuple[Link, Payload]:
        """Takes the lock of the link, and sets the link to `scanning`.

        Waits while another session holds the lock of a link that is not `scanning`.
        """
        end = time.monotonic() + LOCK_TIMEOUT
        while (begun := scans.begin_scan(self.session, *self.ids)) is Refusal.HELD:
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
        git = git_for(settings, payload.github_url, token, lock.renew)
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
        # If nothing was sent, the commit is hardly a new one.
        if not self.sent and scans.end_unchanged_scan(self.session, link.ref, *stored, len(rows)):
            self.has_locks = False
            return
        with self.session.transaction():
            scans.store_snapshot(self.session, self.repository_id, *stored, rows)
            self._go_on_unless(scans.end_scan(self.session, link.ref))

    def _fetch(self, clone: Clone, objects: Objects) -> tuple[Commit, Sequence[File]] | None:
        """Fetches and scans the newest commit. Returns None if there has never been a commit.

        Raises GitError if the repository shows no branch, but had a commit before: a gateway's
        empty answer looks so to git, and must not have everything deleted at the apps.
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
            text = "%s: the repository has no branch, so nothing is sent"
            log.warning(text, self.name, extra=self.fields)
        circuits.reset_circuits(self.session, [self.repository_id])
        self.reads_repository = False
        return None if commit is None else (commit, files)

    def _deliver(
        self, link: Link, objects: Objects, commit: Commit, files: Sequence[File], auth_key: str
    ) -> None:
        """Sends the changes that the app needs, and records each delivery."""
        changes = compare(files, scans.read_deliveries(self.session, link.ref))
        counts = Counter(change.event for change in changes)
        text = ", ".join(f"{counts[event]} to {event}" for event in ("delete", "create", "update"))
        where = f"{inert(commit.branch)} at {commit.sha[:12]}"
        log.info("%s: %s: %s", self.name, where, text, extra=self.fields)
        if not changes:
            return
        self._go_on_unless(scans.may_deliver(self.session, link.ref))
        payload = link.payload
        webhook = self.resources.webhook(payload.base_url, payload.app_id, auth_key)
        look = partial(self._obey_hold, link)
        sender = Sender(webhook, look, objects, payload, commit.sha, self.settings)
        progress = _Progress(self.resources.client, self.tries, len(changes))
        for change in changes:
            progress.tell(self.sent.total())
            sender.send(change)
            self.sent[change.event] += 1
            self.size += change.file.size if change.file else 0
            sha = None if change.event == "delete" else change.sha
            if not scans.record_delivery(self.session, link.ref, change.path, sha):
                self._go_on_unless(Refusal.GONE)

    def _obey_hold(self, link: Link) -> None:
        """Raises AppHeldError if the app is held, HoldsUnreadableError if that can't be known.

        While Redis gives no answer, waits: the app may have been held meanwhile.
        """
        while True:
            try:
                hold = find_hold(self.resources.client, link.ref.job_id, host.timestamp())
            except NoPermissionError:  # the ACL is that of an older version: the worker says so
                return
            except RedisError:  # a fault of the host, and no failure of the link
                time.sleep(_REDIS_PAUSE)
                continue
            if hold is not None:
                raise AppHeldError(f"the app is {hold.sentence}")
            return

    def wait_for_release(self, error: AppHeldError | HoldsUnreadableError) -> None:
        """Queues the job again, for after the hold, and raises SnapshotError."""
        sent = amount(self.sent.total(), "file")
        out = f"; {sent} of this snapshot already sent" if self.sent else ""
        self._give_back(f"{error.message}{out}", JobEnd.HELD, "queued again; no failure is counted")

    def wait_again(self, error: Exception) -> None:
        """Queues the job again after a fault of the host, and raises SnapshotError."""
        message = self.cleaner.clean(self._describe(error))
        why = "the host's fault, queued again at once; no failure is counted"
        self._give_back(message, JobEnd.CUT_OFF, why)

    def _give_back(self, message: str, end: JobEnd, why: str) -> None:
        self.tries.give_back()
        patient = self.settings.model_copy(update={"lock_timeout": LOCK_TIMEOUT})
        # If this fails, the next try updates the link.
        with suppress(DocoraOpsError), closing(Database(patient)) as database:
            scans.release_scan(database, *self.ids, self.session_id)
        fields = self._end_fields(end, message)
        log.warning("%s: %s: %s", self.name, why, inert(message), extra=fields)
        self._record(end, message)
        raise SnapshotError(inert(message))  # `rq worker` logs the text as it is

    def fail(self, error: Exception) -> None:
        """Counts the failure, ends the tries if the link is failed now, raises SnapshotError."""
        message = self.cleaner.clean(self._describe(error))
        settings, circuit, ending = self.settings, None, None
        # The job's own connection may be lost, or in the middle of a statement.
        patient = settings.model_copy(update={"lock_timeout": LOCK_TIMEOUT})
        with closing(Database(patient)) as database:
            try:
                if isinstance(error, GitError):
                    circuit = circuits.git_failed(
                        database,
                        self.repository_id,
                        threshold=settings.circuit_breaker_threshold,
                        cooldown=settings.circuit_breaker_cooldown_ms / 1000,
                    )
                limit = settings.max_retry_attempts
                failure = Failure(*self.ids, message, self.tries.left, limit)
                ending = scans.fail_scan(database, failure, self.session_id)
            except ServerError as trouble:
                text = "%s: its link can't be marked: %s"
                log.warning(text, self.name, inert(trouble.message), extra=self.fields)
        if circuit is not None and circuit.opened and self.link is not None:
            text = f"the circuit is open until {moment(circuit.open_until)}"
            log.warning("%s: %s", self.name, text, extra=self.fields)
            self._announce(self.link, circuit, message)
        if isinstance(ending, Refusal) and ending in _NOTHING_TO_DO:
            reason, fields = _NOTHING_TO_DO[ending], self._end_fields(JobEnd.NOTHING_TO_DO)
            log.info("%s: nothing to do: %s, %s", self.name, reason, self._time, extra=fields)
            self._record(JobEnd.NOTHING_TO_DO)
            return
        counted, end = "not marked", JobEnd.TRIED_AGAIN
        if isinstance(ending, scans.Ending):
            counted = self._try_number(ending.retry_count)
            if ending.is_final:
                was_failed = self.link is not None and self.link.status == LinkStatus.FAILED
                end = JobEnd.FAILED_AGAIN if was_failed else JobEnd.FAILED
                self.tries.end()
        else:  # so the link needs another try
            self.tries.keep()
        counted = f"failed after {self._time}, {counted}"
        outlook, fields = self.tries.outlook, self._end_fields(end, message)
        log.warning("%s: %s: %s; %s", self.name, counted, inert(message), outlook, extra=fields)
        if isinstance(ending, scans.Ending):
            self._record(end, message, try_number=ending.retry_count)
        raise SnapshotError(inert(message))  # `rq worker` logs the text as it is

    def _announce(self, link: Link, circuit: circuits.Circuit, message: str) -> None:
        """Tells the apps of the open circuit. Only logs an error, so that the job can end."""
        try:
            with closing(Database(self.settings)) as database:
                apps = circuits.recipients(database, self.repository_id)
            with suppress(RedisDeniedError):  # the ACL is that of an older version
                held = read_holds(self.resources.client)
                apps = [app for app in apps if app.app_id not in held]
            post_sync_failed(apps, link.payload, circuit, message, self.settings)
        except Exception as error:  # noqa: BLE001 - such as the time limit of the job
            log.warning("%s: the apps were not told: %s", self.name, inert(self._describe(error)))

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
        text, kind = "%s: a bug in docora-ops: %s at %s", type(error).__name__
        log.error(text, self.name, kind, places, extra=self.fields)
        return f"a bug in docora-ops: {type(error).__name__}"
