"""The snapshot job: brings one link up to date."""

import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress

from rq import get_current_job
from rq.timeouts import JobTimeoutException

from docora_ops.database import Database, Session
from docora_ops.database.circuits import Circuit, git_failed, git_succeeded, recipients
from docora_ops.database.link_scans import (
    Ending,
    Failure,
    Refusal,
    begin_scan,
    end_scan,
    fail_scan,
    had_commit,
    may_deliver,
    read_deliveries,
    record_delivery,
    store_snapshot,
)
from docora_ops.errors import (
    BrokenCloneError,
    ConfigurationError,
    DocoraOpsError,
    GitError,
    ServerError,
    SnapshotError,
)
from docora_ops.links import Link, Payload
from docora_ops.queue import Redis, connect
from docora_ops.queue.redis_client import redis_errors
from docora_ops.settings import Settings, load_settings
from docora_ops.text import inert, moment
from docora_ops.worker import host
from docora_ops.worker.certificates import file_for_git
from docora_ops.worker.clone import FOLDER, Clone, Commit, RepositoryLock
from docora_ops.worker.deliveries import (
    Change,
    Event,
    Sender,
    compare,
    fits_index,
    post_sync_failed,
)
from docora_ops.worker.git import Git
from docora_ops.worker.log import link_name, log, name_of_arguments
from docora_ops.worker.recovery import Tries
from docora_ops.worker.scan import File, Objects, scan
from docora_ops.worker.secrets import Cleaner, decrypt
from docora_ops.worker.webhook import Webhook

DELIVERY_TIMEOUT = 30
"""Seconds for the POST of a file, or of a chunk."""
LOCK_TIMEOUT = 60
"""Seconds to wait for a change of the link to commit, and for the link's lock."""
_STATEMENT_TIMEOUT = 300
"""Seconds, at least: the files of a large repository are listed in one statement."""
_PAUSE = 0.05
_LONGEST_SNAPSHOT_PATH = 2048
_LARGEST_SIZE = 2**31 - 1
"""The largest size of a file that Docora's column can hold."""


class Resources:
    """What the jobs of one process share: settings, and connections to Postgres and Redis.

    Without a client of Redis the process runs a single job, which connects and leaves nothing.
    """

    def __init__(self, settings: Settings, client: Redis | None = None) -> None:
        self.settings = settings
        self.client = client or connect(settings)
        self._is_shared = client is not None
        self._session: Session | None = None

    def take_session(self) -> Session:
        """Returns the session that the last job has left, if it is alive, or a new one."""
        session, self._session = self._session, None
        if session is not None:
            try:
                session.rows("SELECT 1")
            except DocoraOpsError:  # Postgres may have been restarted since
                session.close()
            else:
                return session
        timeout = max(self.settings.statement_timeout, _STATEMENT_TIMEOUT)
        timeouts = {"lock_timeout": LOCK_TIMEOUT, "statement_timeout": timeout}
        return Session(self.settings.model_copy(update=timeouts))

    def leave_session(self, session: Session) -> bool:
        """Keeps the session, without its locks, if a job may follow; else it has to be closed."""
        if self._is_shared:
            with suppress(DocoraOpsError):  # the link is in sync already
                session.release()
                self._session = session
        return self._session is session


_resources: Resources | None = None


def use_settings(settings: Settings, client: Redis | None = None) -> None:
    """Gives the jobs of this process and its children these settings, and a client of Redis.

    With a client, a job that has succeeded leaves its session of Postgres to the next one.
    """
    global _resources  # noqa: PLW0603 - RQ calls a plain function
    _resources = Resources(settings, client)


def snapshot(*, app_id: str, repository_id: str, **names: object) -> None:
    """Brings the link of an app to a repository up to date. RQ calls this for each job.

    Reads everything but the two ids from the database, where a token or URL may have changed since
    the job was queued; `names` are for the log. Does nothing if the link or the app is gone, or if
    another job is scanning the link. Raises SnapshotError, without secrets, if the job failed.
    """
    tries = Tries(get_current_job())
    name = name_of_arguments({"app_id": app_id, "repository_id": repository_id} | names)
    try:
        resources = _resources or Resources(load_settings())
        job = _Snapshot(resources, app_id, repository_id, tries, name)
    except ConfigurationError as error:
        # The failure cannot be counted, so the link needs another try.
        tries.keep()
        log.error("%s: failed: %s; %s", name, inert(error.message), tries.outlook)
        raise SnapshotError(inert(error.message)) from None
    job.run()


class _GoneError(Exception):
    """The link or the app was removed while the job ran."""


class _Snapshot:
    def __init__(
        self, resources: Resources, app_id: str, repository_id: str, tries: Tries, name: str
    ) -> None:
        self.resources = resources
        self.settings = resources.settings
        self.app_id = app_id
        self.repository_id = repository_id
        self.tries = tries
        self.cleaner = Cleaner()
        self.name = name
        self.started = time.monotonic()
        self.sent = 0
        self.link: Link | None = None
        self.reads_repository = False  # what fails meanwhile counts for the circuit
        self.session = resources.take_session()
        self.session_is_left = False
        self.session_id = 0

    def run(self) -> None:
        """Runs the job. Raises SnapshotError."""
        try:
            # Handled outside `except`, so that it is not chained into the log, secrets and all.
            error = self._try()
            if error is not None:
                self._fail(error)
        finally:
            if not self.session_is_left:
                self.session.close()

    def _try(self) -> Exception | None:
        """Runs the job; returns any error, since each failure has to be counted."""
        ran_out = False
        try:
            # Known before the lock is taken: the session may fail at any moment afterwards.
            self.session_id = self.session.id
            begun = self._begin()
            if isinstance(begun, Refusal):
                self._end_quietly(begun)
                return None
            self.link, payload = begun
            self.name = link_name(payload.app_name, payload.repository_name)
            log.info("%s: began, %s", self.name, self._try_number(self.link.retry_count + 1))
            self._work(self.link, payload)
            self.session_is_left = self.resources.leave_session(self.session)
            files = "1 file" if self.sent == 1 else f"{self.sent} files"
            log.info("%s: synced, %s sent in %.1f s", self.name, files, self._seconds)
        except _GoneError:
            self._end_quietly(Refusal.GONE)
        except MemoryError:
            ran_out = True  # its traceback, which ends here, holds what has filled the memory
        except Exception as error:  # noqa: BLE001 - the caller counts it as a failure
            return error
        text = f"the job ran out of memory ({host.memory_limit()}) on this repository"
        kind = GitError if self.reads_repository else SnapshotError
        return kind(text) if ran_out else None

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _try_number(self, number: int) -> str:
        limit = self.settings.max_retry_attempts
        # Docora's scheduler queues failed links again, and their count goes on.
        of = f" of {limit}" if number <= limit else f", past the limit of {limit}"
        return f"try {number}{of}"

    def _begin(self) -> tuple[Link, Payload] | Refusal:
        """Takes the link; waits for the session of a job that has just ended."""
        end = time.monotonic() + LOCK_TIMEOUT
        while True:
            begun = begin_scan(self.session, self.app_id, self.repository_id)
            if begun is not Refusal.HELD:
                return begun
            if time.monotonic() > end:
                raise SnapshotError(
                    f"another session has held the link's lock for {LOCK_TIMEOUT} s"
                )
            time.sleep(_PAUSE)

    def _go_on_unless(self, refusal: Refusal | None) -> None:
        """Raises _GoneError, or SnapshotError if another job could be scanning the link, too."""
        if refusal is Refusal.GONE:
            raise _GoneError
        if refusal is Refusal.LOST:
            raise SnapshotError(
                "its session of Postgres has not got the link's lock: DATABASE_URL must lead to "
                "Postgres itself, or to a proxy that pools sessions"
            )

    def _work(self, link: Link, payload: Payload) -> None:
        token, auth_key = self._decrypt(payload)
        with redis_errors(self.resources.client):
            host.measure_clock(self.resources.client)  # what apps are sent is signed by it
        lock = RepositoryLock(self.resources.client, payload.repository_name)
        git = Git(
            payload.github_url,
            token=token,
            protocols=self.settings.git_protocols.split(","),
            timeout=self.settings.git_timeout,
            keep_alive=lock.renew,
            authorities=file_for_git(self.settings.repos_base_path / FOLDER),
        )
        clone = Clone(self.settings.repos_base_path, payload.owner, payload.name, git, lock)
        self.reads_repository = True
        with Objects(git, clone.path) as objects:
            found = self._fetch(clone, objects)
            git_succeeded(self.session, self.repository_id)  # not before: a scan may fail as git's
            self.reads_repository = False
            if found is not None:
                self._deliver(link, clone, objects, *found, auth_key)
        with self.session.transaction():
            if found is not None:
                self._store(*found)
            self._go_on_unless(end_scan(self.session, link.ref))

    def _decrypt(self, payload: Payload) -> tuple[str | None, str]:
        """Returns the GitHub token and the app's auth key."""
        key = self.settings.require_encryption_key()
        self.cleaner.learn((payload.github_token_encrypted, payload.client_auth_key_encrypted))
        self.cleaner.learn_url(payload.base_url)
        token = None
        if payload.github_token_encrypted is not None:
            token = decrypt(payload.github_token_encrypted, key, "the GitHub token")
        auth_key = decrypt(payload.client_auth_key_encrypted, key, "the app's auth key")
        self.cleaner.learn((token, auth_key))
        return token, auth_key

    def _fetch(self, clone: Clone, objects: Objects) -> tuple[Commit, Sequence[File]] | None:
        """Fetches the newest commit and scans it; returns None if there never was a commit.

        Replaces a clone that cannot be read by a new one, once. Raises GitError if the repository
        had a commit before: a gateway's empty answer looks to git like a repository without
        branches, and must not have everything deleted at the apps.
        """
        is_new = False
        while True:
            commit = clone.sync(anew=is_new)
            if commit is None:
                if had_commit(self.session, self.repository_id):
                    raise GitError(
                        "the repository shows no branch, though it was delivered before: nothing "
                        "is deleted"
                    )
                log.warning("%s: the repository has no branch, so nothing is sent", self.name)
                return None
            try:
                return commit, scan(clone.path, commit.sha, objects)
            except BrokenCloneError as error:
                if is_new:  # so the fault is the repository's
                    raise GitError(error.message) from error
                log.warning("%s: %s: cloning it anew", self.name, inert(error.message))
                objects.close()
                is_new = True

    def _deliver(
        self,
        link: Link,
        clone: Clone,
        objects: Objects,
        commit: Commit,
        files: Sequence[File],
        auth_key: str,
    ) -> None:
        """Sends what the app lacks of the commit, and records each file."""
        changes = compare(files, read_deliveries(self.session, link.ref))
        counts = Counter(change.event for change in changes)
        numbers = counts[Event.DELETE], counts[Event.CREATE], counts[Event.UPDATE]
        text = "%s: %s at %s: %d to delete, %d to create, %d to update"
        log.info(text, self.name, inert(commit.label), commit.sha[:12], *numbers)
        if not changes:
            return
        self._go_on_unless(may_deliver(self.session, link.ref))
        payload = link.payload
        with Webhook(payload.base_url, payload.app_id, auth_key, DELIVERY_TIMEOUT) as webhook:
            sender = Sender(webhook, objects, payload, commit.sha, self.settings)
            try:
                for change in sender.send(changes):
                    self.sent += 1
                    if not self._record(link, change):
                        raise _GoneError
            except BrokenCloneError:
                clone.remove()
                raise

    def _record(self, link: Link, change: Change) -> bool:
        """Records that the app has taken the change. Returns False if the link is gone."""
        sha = None if change.event is Event.DELETE else change.sha
        return record_delivery(self.session, link.ref, change.path, sha)

    def _store(self, commit: Commit, files: Sequence[File]) -> None:
        store_snapshot(
            self.session,
            self.repository_id,
            commit.sha,
            commit.branch[:255],
            [
                (file.name, file.sha, min(file.size, _LARGEST_SIZE))
                for file in files
                if len(file.name) <= _LONGEST_SNAPSHOT_PATH and fits_index(file.name)
            ],
        )

    def _end_quietly(self, refusal: Refusal) -> None:
        gone = refusal is Refusal.GONE
        reason = "the link or its app is gone" if gone else "another job is at work on it"
        log.info("%s: nothing to do: %s, %.1f s", self.name, reason, self._seconds)

    def _fail(self, error: Exception) -> None:
        """Counts the failure, ends or keeps the tries accordingly, and raises SnapshotError."""
        message = self.cleaner.clean(self._describe(error))
        circuit, ending = self._count_failure(error, message)
        if circuit is not None and circuit.opened:
            self._announce(circuit, message)
        if ending in {Refusal.GONE, Refusal.BUSY}:
            self._end_quietly(ending)
            return
        if isinstance(ending, Ending):
            if ending.is_final:
                self.tries.end()
            counted = self._try_number(ending.retry_count)
        else:
            # The failure was not counted, so the link needs another try.
            self.tries.keep()
            counted = "not marked"
        counted = f"failed after {self._seconds:.1f} s, {counted}"
        log.warning("%s: %s: %s; %s", self.name, counted, inert(message), self.tries.outlook)
        raise SnapshotError(inert(message))  # RQ's own worker logs it as it is

    def _count_failure(
        self, error: Exception, message: str
    ) -> tuple[Circuit | None, Ending | Refusal | None]:
        """Counts the failure of the repository and of the link, as far as Postgres answers."""
        circuit = ending = None
        # The job's own connection may be lost, or in the middle of a statement.
        with closing(Database(self.settings)) as database:
            try:
                if isinstance(error, GitError):
                    circuit = git_failed(
                        database,
                        self.repository_id,
                        threshold=self.settings.circuit_breaker_threshold,
                        cooldown=self.settings.circuit_breaker_cooldown_ms / 1000,
                    )
                failure = Failure(
                    self.app_id,
                    self.repository_id,
                    message,
                    self.tries.left,
                    self.settings.max_retry_attempts,
                )
                ending = fail_scan(database, failure, self.session_id)
            except ServerError as trouble:
                log.warning("%s: its link can't be marked: %s", self.name, inert(trouble.message))
        return circuit, ending

    def _describe(self, error: Exception) -> str:
        if isinstance(error, DocoraOpsError):
            return error.message
        if isinstance(error, JobTimeoutException):
            return f"the snapshot took longer than {self.settings.job_timeout} s"
        # The exception's own text may contain secrets, so it is left out.
        places = "; ".join(
            f"{frame.filename}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
        )
        log.error("%s: a bug in docora-ops: %s at %s", self.name, type(error).__name__, places)
        return f"a bug in docora-ops: {type(error).__name__}"

    def _announce(self, circuit: Circuit, message: str) -> None:
        """Tells the apps; errors are logged and do not change the link's status."""
        assert self.link is not None  # noqa: S101 - only git errors open a circuit
        log.warning("%s: the circuit is open until %s", self.name, moment(circuit.open_until))
        try:
            with closing(Database(self.settings)) as database:
                apps = recipients(database, self.repository_id)
            post_sync_failed(apps, self.link.payload, circuit, message, self.settings)
        except Exception as error:  # noqa: BLE001 - logged only, as the contract says
            log.warning("%s: the apps were not told: %s", self.name, inert(self._describe(error)))
