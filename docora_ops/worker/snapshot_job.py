"""The snapshot job: brings one link up to date."""

from __future__ import annotations

import logging
import time
import traceback
from contextlib import closing
from dataclasses import dataclass, field

from docora_ops.database import Session
from docora_ops.database.pooling import session_id
from docora_ops.database.snapshots import (
    Circuit,
    DeliveryRecord,
    Ending,
    Refusal,
    app_exists,
    begin_scan,
    end_scan,
    fail_scan,
    git_failed,
    git_succeeded,
    had_commit,
    keeps_link,
    read_deliveries,
    recipients,
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
from docora_ops.links import Link
from docora_ops.queue import connect
from docora_ops.settings import Settings, load_settings
from docora_ops.text import inert, moment
from docora_ops.worker.bodies import BodyWriter, Event
from docora_ops.worker.circuit import announce_open_circuit
from docora_ops.worker.clone import Clone, Commit
from docora_ops.worker.crypto import decrypt
from docora_ops.worker.deliveries import Plan, Sender, compare, fits_index
from docora_ops.worker.endpoint import secrets_of
from docora_ops.worker.repository_lock import RepositoryLock
from docora_ops.worker.scan import Scan, scan
from docora_ops.worker.secrets import Cleaner
from docora_ops.worker.tries import JobTimeoutException, Tries
from docora_ops.worker.webhook import Webhook

DELIVERY_TIMEOUT = 30
"""Seconds for the POST of a file, or of a chunk."""
_PATIENCE = 60
"""Seconds to wait for whoever is changing the link, or letting go of it, when its job begins."""
_PAUSE = 0.05
_STATEMENT_TIMEOUT = 300
"""Seconds, at least: the files of a large repository are listed in one statement."""
_LONGEST_SNAPSHOT_PATH = 2048
_LARGEST_SIZE = 2**31 - 1
"""What Docora's column for the size of a file can hold."""

# A child of RQ's own logger: its lines appear wherever the worker's do.
log = logging.getLogger("rq.worker.snapshot")

_settings: Settings | None = None


def use_settings(settings: Settings) -> None:
    """Have jobs of this process and its children use these, instead of the environment alone."""
    global _settings  # noqa: PLW0603 - RQ calls a plain function
    _settings = settings


def snapshot(*, app_id: str, repository_id: str, **_: object) -> None:
    """Bring the link of an app to a repository up to date: what RQ calls for each job.

    Of the payload only the two ids are used: the rest is read from the database, where a token or
    a URL may have been replaced since the job was queued. Ends without a word where there is
    nothing to do: the link or the app is gone, or another job is at work on it. Raises
    SnapshotError, without secrets, when it has come to nothing and is to be tried again as far as
    there are tries left.
    """
    tries = Tries.of_current_job()
    try:
        job = _Snapshot(_settings or load_settings(), app_id, repository_id, tries)
    except ConfigurationError as error:
        # Nothing can be written about the link, so it must not be lost with the last try.
        tries.keep()
        raise SnapshotError(error.message) from None
    job.run()


class _GoneError(Exception):
    """The link or the app was removed while we worked."""


@dataclass
class _Snapshot:
    settings: Settings
    app_id: str
    repository_id: str
    tries: Tries
    cleaner: Cleaner = field(default_factory=Cleaner)
    name: str = ""
    sent: int = 0
    link: Link | None = None
    session_id: int = 0

    def __post_init__(self) -> None:
        self.name = inert(f"{self.app_id} {self.repository_id}")
        timeout = max(self.settings.statement_timeout, _STATEMENT_TIMEOUT)
        self.session = Session(
            self.settings.model_copy(
                update={"lock_timeout": _PATIENCE, "statement_timeout": timeout}
            )
        )

    def run(self) -> None:
        """All nine steps. Raises SnapshotError."""
        try:
            # Seen to where it is not being handled any more: it would be the context of whatever
            # goes wrong then, and be logged with it, secrets and all.
            error = self._try()
            if error is not None:
                self._fail(error)
        finally:
            self.session.close()

    def _try(self) -> Exception | None:
        """All nine steps, or what is wrong: whatever it is, the link must not stay behind."""
        started = time.monotonic()
        try:
            # Before there is anything to lose: a session that has the link may fail at any moment.
            self.session_id = session_id(self.session)
            begun = self._begin()
            if begun is Refusal.HELD:
                raise SnapshotError(f"another session has held the link's lock for {_PATIENCE} s")
            if isinstance(begun, Refusal):
                self._end_quietly(begun)
                return None
            self.link = begun
            self.name = inert(begun.payload.description)
            self._require_lock(begun)
            self._work(begun)
            log.info(
                "%s: in sync, %d sent in %.1f s", self.name, self.sent, time.monotonic() - started
            )
        except _GoneError:
            self._end_quietly(Refusal.GONE)
        except Exception as error:  # noqa: BLE001 - it is seen to by whoever gets it
            return error
        return None

    def _begin(self) -> Link | Refusal:
        """Take the link, also from a job that has ended and whose session still has to."""
        end = time.monotonic() + _PATIENCE
        while True:
            begun = begin_scan(self.session, self.app_id, self.repository_id)
            if begun is not Refusal.HELD or time.monotonic() > end:
                return begun
            time.sleep(_PAUSE)

    def _require_lock(self, link: Link) -> None:
        """Raise SnapshotError where another job could be at work on the link, too."""
        if not keeps_link(self.session, link.ref, self.session_id):
            raise SnapshotError(
                "its session of Postgres has not got the link's lock: DATABASE_URL must lead to "
                "Postgres itself, or to a proxy that pools sessions"
            )

    def _work(self, link: Link) -> None:
        payload = link.payload
        key = self.settings.require_encryption_key()
        self.cleaner.learn((payload.github_token_encrypted, payload.client_auth_key_encrypted))
        self.cleaner.learn(secrets_of(payload.base_url))
        token = None
        if payload.github_token_encrypted is not None:
            token = decrypt(payload.github_token_encrypted, key, "the GitHub token")
        auth_key = decrypt(payload.client_auth_key_encrypted, key, "the app's auth key")
        self.cleaner.learn((token, auth_key))
        clone = Clone(
            self.settings.repos_base_path,
            payload.owner,
            payload.name,
            payload.github_url,
            token=token,
            protocols=self.settings.git_protocols.split(","),
            timeout=self.settings.git_timeout,
        )
        lock = RepositoryLock(self.settings, connect(self.settings), payload.repository)
        commit = self._sync(clone, lock)
        if commit is None:
            log.warning("%s: the repository has no branch, so nothing is sent", self.name)
            end_scan(self.session, link.ref)
            return
        commit, files = self._read(clone, lock, commit)
        with files:
            plan = compare(files, read_deliveries(self.session, link.ref))
            log.info(
                "%s: %s at %s: %d to delete, %d to create, %d to update",
                self.name,
                inert(commit.label),
                commit.sha[:12],
                len(plan.deletions),
                len(plan.creations),
                len(plan.updates),
            )
            if not app_exists(self.session, self.app_id):
                raise _GoneError
            self._require_lock(link)
            if plan.total:
                try:
                    self._deliver(link, clone, commit, files, plan, auth_key)
                except BrokenCloneError:
                    with lock.held():
                        clone.discard()
                    raise
            self._require_lock(link)
            self._store(commit, files)
        end_scan(self.session, link.ref)

    def _sync(self, clone: Clone, lock: RepositoryLock) -> Commit | None:
        """Fetches the newest commit; returns None for a repository that never had one.

        Raises GitError if the repository had one before: a gateway's empty answer looks to git
        like a repository without branches, and must not have everything deleted at the apps.
        """
        with lock.held():
            commit = clone.sync(lock.renew)
        if commit is None and had_commit(self.session, self.repository_id):
            raise GitError(
                "the repository shows no branch, though it was delivered before: nothing is deleted"
            )
        git_succeeded(self.session, self.repository_id)
        return commit

    def _read(self, clone: Clone, lock: RepositoryLock, commit: Commit) -> tuple[Commit, Scan]:
        """Scans the commit; a clone that can't be read is thrown away and made anew, once."""
        try:
            return commit, scan(clone, commit)
        except BrokenCloneError as error:
            log.warning("%s: %s: cloning it anew", self.name, inert(error.message))
        with lock.held():
            clone.discard()
        anew = self._sync(clone, lock)
        if anew is None:
            raise GitError("the repository shows no branch any more")
        return anew, scan(clone, anew)

    def _deliver(
        self,
        link: Link,
        clone: Clone,
        commit: Commit,
        files: Scan,
        plan: Plan,
        auth_key: str,
    ) -> None:
        payload = link.payload

        record = DeliveryRecord(self.session, link.ref)

        def acknowledged(event: Event, path: str, sha: str) -> None:
            self.sent += 1
            is_deletion = event is Event.DELETE
            link_is_there = record.remove(path) if is_deletion else record.record(path, sha)
            if not link_is_there:
                raise _GoneError

        writer = BodyWriter(
            payload.repository_id, payload.github_url, payload.owner, payload.name, commit.sha
        )
        with (
            Webhook(
                payload.base_url, payload.app_id, auth_key, timeout=DELIVERY_TIMEOUT
            ) as webhook,
            clone.objects() as objects,
        ):
            sender = Sender(
                files,
                objects,
                writer,
                chunk_threshold=self.settings.binary_chunk_threshold_bytes,
                chunk_size=self.settings.binary_chunk_size_bytes,
            )
            try:
                sender.send(plan, webhook, acknowledged)
            except SnapshotError:
                record.settle()
                raise
        if not record.close():
            raise _GoneError

    def _store(self, commit: Commit, files: Scan) -> None:
        store_snapshot(
            self.session,
            self.repository_id,
            commit.sha,
            commit.branch[:255],
            lambda: (
                (file.name, file.sha, min(file.size, _LARGEST_SIZE))
                for _, file in files.files()
                if len(file.name) <= _LONGEST_SNAPSHOT_PATH and fits_index(file.name)
            ),
        )

    def _end_quietly(self, refusal: Refusal) -> None:
        if refusal is Refusal.GONE:
            log.info("%s: the link is gone, nothing to do", self.name)
        else:
            log.info("%s: another job is at work on it, nothing to do", self.name)

    def _fail(self, error: Exception) -> None:
        """Write the verdict, have RQ act by it, and raise what RQ is to know."""
        message = self.cleaner.clean(self._describe(error))
        # Of the first connection nobody knows in which state it is, or whether it still is.
        database = self.session.sibling()
        circuit = ending = None
        try:
            if isinstance(error, GitError):
                circuit = git_failed(
                    database,
                    self.repository_id,
                    threshold=self.settings.circuit_breaker_threshold,
                    cooldown=self.settings.circuit_breaker_cooldown_ms / 1000,
                )
            ending = fail_scan(
                database,
                self.app_id,
                self.repository_id,
                message,
                tries_left=self.tries.left,
                max_attempts=self.settings.max_retry_attempts,
                session_id=self.session_id,
            )
        except ServerError as trouble:
            log.warning("%s: its link can't be marked: %s", self.name, trouble.message)
        finally:
            database.close()
        if circuit is not None and circuit.opened:
            self._announce(circuit, message)
        if ending in {Refusal.GONE, Refusal.BUSY}:
            self._end_quietly(ending)
            return
        if isinstance(ending, Ending):
            if ending.is_final:
                self.tries.end()
            counted = f"failed, try {ending.retry_count}"
            outlook = "given up" if ending.is_final else f"{self.tries.left} more"
        else:
            # Without a verdict the link would be lost with the last try.
            self.tries.keep()
            counted, outlook = "failed, not marked", "tried again"
        log.warning("%s: %s: %s; %s", self.name, counted, inert(message), outlook)
        raise SnapshotError(message)

    def _describe(self, error: Exception) -> str:
        if isinstance(error, DocoraOpsError):
            return error.message
        if isinstance(error, JobTimeoutException):
            return f"the snapshot took longer than {self.settings.job_timeout} s"
        # The exception's own text may hold anything, so it stays here.
        places = "; ".join(
            f"{frame.filename}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
        )
        log.error("%s: a bug in docora-ops: %s at %s", self.name, type(error).__name__, places)
        return f"a bug in docora-ops: {type(error).__name__}"

    def _announce(self, circuit: Circuit, message: str) -> None:
        """Tell the apps; whatever goes wrong with that does not change the verdict."""
        assert self.link is not None  # noqa: S101 - git has worked on it
        payload = self.link.payload
        log.warning("%s: the circuit is open until %s", self.name, moment(circuit.open_until))
        try:
            with closing(self.session.sibling()) as database:
                apps = recipients(database, self.repository_id)
            announce_open_circuit(
                apps,
                {
                    "repository_id": payload.repository_id,
                    "github_url": payload.github_url,
                    "owner": payload.owner,
                    "name": payload.name,
                },
                circuit,
                self.settings.circuit_breaker_threshold,
                message,
                self.settings.require_encryption_key(),
            )
        except Exception as error:  # noqa: BLE001 - logged only, as the contract says
            log.warning("%s: the apps were not told: %s", self.name, self._describe(error))
