"""The snapshot job: brings one link up to date."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

from redis import RedisError as ClientError
from rq import Retry, get_current_job
from rq.exceptions import AbandonedJobError
from rq.job import Job
from rq.timeouts import JobTimeoutException

from docora_ops.database import scans
from docora_ops.database.links import close_circuits
from docora_ops.encryption import decrypt
from docora_ops.errors import (
    BrokenCloneError,
    DocoraOpsError,
    GitError,
    LinkError,
    LinkLockedError,
    RedisError,
    RepositoryBusyError,
    ServerError,
    SnapshotError,
)
from docora_ops.links import Link, LinkStatus, ids_of_job, job_id_of
from docora_ops.queue.connection import explain
from docora_ops.text import amount, inert, mask, moment
from docora_ops.worker import host
from docora_ops.worker.clone import LOCK_PAUSE, Clone, Commit, File, Objects, RepositoryLock, scan
from docora_ops.worker.deliveries import Change, Sender, compare, fits_index, post_sync_failed
from docora_ops.worker.git import Git
from docora_ops.worker.log import log, places_of
from docora_ops.worker.resources import current_resources
from docora_ops.worker.secrets import Cleaner

_LONGEST_SNAPSHOT_PATH = 2048
_LARGEST_SIZE = 2**31 - 1  # the largest size of a file that Docora's column can hold
_MOST_RETRIES = 1_000_000  # of tries that do not count


def snapshot(*, app_id: str, repository_id: str, **names: object) -> Retry | None:
    """Brings the link of an app to a repository up to date. Each job calls this function.

    Reads the link from the database, because the job's other arguments may be outdated. Does
    nothing if the link or the app is gone, or if another process works on the link. Raises
    SnapshotError, without secrets, after a failure of the link. If the host, a server or another
    job is to blame, counts no failure, and returns a Retry.

    names: the other arguments of the job; only the log uses them.
    """
    run = _Run(app_id, repository_id, names)
    try:
        link = run.claim()
        token, auth_key = run.decrypt(link)
        with run.fetch(link, token) as fetched:
            changes = run.compare(link, fetched)
            run.deliver(link, fetched, changes, auth_key)
        run.record(link, fetched)
        run.tell(f"synced, {amount(len(changes), 'file')} sent in {run.seconds:.1f} s")
    except _EndedError as reason:
        run.tell(str(reason))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - bugs count, too
        try:
            return run.end_without_success(error)
        except JobTimeoutException:  # it may tell the first error, too, with its secrets
            raise SnapshotError("the time of the job was up while it failed") from None
    return None


def count_abandoned(job: Job, kind: type[BaseException], *_: object) -> None:
    """Sets the link of a killed worker to `failed` if RQ has no further try for the job.

    RQ calls this for each such job. If there is a further try, the try itself counts the failure.
    """
    if kind is AbandonedJobError and not job.retries_left and (ids := ids_of_job(job.id)):
        with suppress(DocoraOpsError):  # repair will find it
            scans.fail_killed(current_resources().database, *ids)


class _EndedError(Exception):
    """The job is to end quietly. The text says why."""


class _Fetched(NamedTuple):
    """The newest commit, its files, and their contents. None: the repository has no commit."""

    commit: Commit | None
    files: Sequence[File]
    objects: Objects


class _Run:
    """One run of the job."""

    def __init__(self, app_id: str, repository_id: str, names: dict[str, object]) -> None:
        job = get_current_job()
        assert job is not None  # noqa: S101 - RQ runs it
        self.job, self.ids, self.repository_id = job, (app_id, repository_id), repository_id
        self.resources = current_resources()
        self.settings, self.database = self.resources.settings, self.resources.database
        self.lease = self.resources.new_lease(job_id_of(app_id, repository_id))
        self.title = f"{app_id} ← {repository_id}"
        if {"app_name", "owner", "name"} <= names.keys():
            self.title = f"{names['app_name']} ← {names['owner']}/{names['name']}"
        self.cleaner = Cleaner()
        self.started = time.monotonic()
        self.link: Link | None = None
        self.has_git_failures = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def tell(self, text: str) -> None:
        log.info("%s: %s", inert(mask(self.title)), inert(text))

    def claim(self) -> Link:
        """Takes the lease, and sets the link to `scanning`."""
        if not self.lease.acquire():
            raise _EndedError("nothing to do: another worker is at work on it")
        limit, counts_killed = self.settings.max_retry_attempts, not self.lease.was_given_back
        claimed = scans.claim(self.database, *self.ids, counts_killed=counts_killed, limit=limit)
        if claimed is None:
            raise _EndedError("nothing to do: the link or its app is gone")
        link, self.has_git_failures = claimed
        self.link, self.title = link, link.link_name
        if link.status == LinkStatus.FAILED:
            raise _EndedError(f"failed, try {link.retry_count} of {limit}: {link.error_message}")
        self.cleaner.learn((link.github_token_encrypted, link.client_auth_key_encrypted))
        self.cleaner.learn_url(link.base_url)
        return link

    def decrypt(self, link: Link) -> tuple[str | None, str]:
        """Returns the GitHub token, if there is one, and the app's auth key."""
        key, token = self.settings.require_encryption_key(), link.github_token_encrypted
        if token is not None:
            token = decrypt(token, key, "the GitHub token")
        auth_key = decrypt(link.client_auth_key_encrypted, key, "the app's auth key")
        self.cleaner.learn((token, auth_key))
        return token, auth_key

    @contextmanager
    def fetch(self, link: Link, token: str | None) -> Iterator[_Fetched]:
        """Fetches and scans the newest commit; a success closes the circuit.

        Raises GitError if a repository that had a commit before shows no branch. The empty answer
        of a gateway looks the same to git, and must not delete files at the apps.
        """
        settings, client = self.settings, self.resources.client
        host.check_clock(client)  # signatures contain the time
        lock = RepositoryLock(client, link.repository_name)
        protocols, timeout = settings.git_protocols, settings.git_timeout
        git = Git(link.github_url, token, protocols, timeout, lock.renew)
        clone = Clone(settings.repos_base_path, link.owner, link.name, git, lock)
        try:
            with closing(Objects(git, clone.path)) as objects:
                commit, files = clone.sync(), []
                if commit is not None:
                    files = [*scan(git, clone.path, commit.sha, objects)]
                elif scans.had_commit(self.database, self.repository_id):
                    raise GitError(
                        "the repository shows no branch, though it was delivered before: nothing "
                        "is deleted"
                    )
                if self.has_git_failures:
                    self.lease.look()
                    close_circuits(self.database, [self.repository_id])
                yield _Fetched(commit, files, objects)
        except BrokenCloneError:
            clone.remove()
            raise

    def compare(self, link: Link, fetched: _Fetched) -> list[Change]:
        """Returns the changes that the app needs."""
        if fetched.commit is None:
            self.tell("the repository has no branch, so nothing is sent")
            return []
        return compare(fetched.files, scans.read_deliveries(self.database, link))

    def deliver(
        self, link: Link, fetched: _Fetched, changes: Sequence[Change], auth_key: str
    ) -> None:
        """Sends the changes to the app, and records each."""
        if fetched.commit is None or not changes:
            return
        webhook = self.resources.webhook(link.base_url, link.app_id, auth_key)
        sha, look = fetched.commit.sha, self.lease.look
        sender = Sender(webhook, look, fetched.objects, link, sha, self.settings)
        for change in changes:
            sender.send(change)
            delivered = None if change.event == "delete" else change.sha
            self.lease.look()
            if not scans.record_delivery(self.database, link, change.path, delivered):
                raise _EndedError("nothing to do: the link or its app is gone")

    def record(self, link: Link, fetched: _Fetched) -> None:
        """Stores the commit, and sets the link to `synced`."""
        rows = [
            (file.path, file.sha, min(file.size, _LARGEST_SIZE))
            for file in fetched.files
            if len(file.path) <= _LONGEST_SNAPSHOT_PATH and fits_index(file.path)
        ]
        commit = (fetched.commit.sha, fetched.commit.branch[:255]) if fetched.commit else None
        self.lease.look()
        if not scans.end_scan(self.database, link, commit, rows):
            raise _EndedError("nothing to do: the link or its app is gone")

    def end_without_success(self, error: BaseException) -> Retry | None:
        """Ends the job after an error.

        Counts a failure of the link, and raises SnapshotError. If the link is not to blame, counts
        none, and returns a Retry. Returns None if the link is gone.
        """
        if isinstance(error, SystemExit):  # a second signal
            return self.give_back("the worker was told to end at once")
        if isinstance(error, ClientError):
            problem, hint = explain(error)
            error = RedisError(f"Redis {problem}", hint=hint)
        assert isinstance(error, Exception)  # noqa: S101
        message = self.cleaner.clean(self.describe(error))
        if isinstance(error, RepositoryBusyError | LinkLockedError):
            return self.give_back(message, LOCK_PAUSE)
        try:
            fault = host.fault_behind(error, self.settings, self.resources.client)
            if fault is None:
                self.fail(error, message)
                return None
        except LinkError as trouble:  # of this link's rows: other jobs must not wait for it
            return self.give_back(self.cleaner.clean(trouble.message), LOCK_PAUSE)
        except ServerError as trouble:
            fault = trouble
        self.resources.fault = fault
        return self.give_back(fault.message)

    def give_back(self, message: str, pause: int = 0) -> Retry:
        """Makes the link pending, and counts no failure. `pause`: seconds until the next try."""
        try:
            self.lease.look()
            if self.lease.is_held:
                scans.give_back(self.database, *self.ids)
        except ServerError:
            self.lease.mark_given_back()
        when = f" in {pause} s" if pause else ""
        self.tell(f"queued again{when}, no failure is counted: {message}")
        return Retry(max=_MOST_RETRIES, interval=pause, enqueue_at_front=not pause)

    def fail(self, error: Exception, message: str) -> None:
        """Counts a failure of the link; an error of git also counts for the circuit.

        Raises SnapshotError; if the link is failed now, RQ is left no further try. Returns if the
        link is gone.
        """
        settings, circuit = self.settings, None
        limit, is_last = settings.max_retry_attempts, not self.job.retries_left
        self.lease.look()
        if isinstance(error, GitError):
            circuit = scans.count_git_failure(
                self.database,
                self.repository_id,
                threshold=settings.circuit_breaker_threshold,
                cooldown=settings.circuit_breaker_cooldown_ms / 1000,
            )
        status = scans.fail(self.database, *self.ids, message, limit=limit, is_last=is_last)
        if status is None:
            self.tell(f"nothing to do: the link or its app is gone: {message}")
            return
        outlook = "no further try"
        if status == LinkStatus.FAILED:
            self.job.retries_left = 0
        elif self.job.retries_left:
            outlook = f"tried again in {self.job.get_retry_interval()} s"
        if circuit is not None and circuit.has_opened and self.link is not None:
            self.announce(self.link, circuit, message)
        number = self.link.retry_count + 1 if self.link else 1
        # When the scheduler queues a failed link, the count goes on.
        which = f"try {number} of {limit}" if number <= limit else f"try {number}"
        self.tell(f"failed after {self.seconds:.1f} s, {which}: {message}; {outlook}")
        raise SnapshotError(inert(message)) from None  # the cause may contain secrets

    def announce(self, link: Link, circuit: scans.Circuit, message: str) -> None:
        """Tells the apps that the circuit is open. Logs errors and raises none."""
        self.tell(f"the circuit is open until {moment(circuit.open_until)}")
        try:
            apps = scans.read_recipients(self.database, self.repository_id)
            post_sync_failed(apps, link, circuit, message, self.settings)
        except Exception as error:  # noqa: BLE001 - such as the time limit of the job
            self.tell(f"the apps were not told: {self.describe(error)}")

    def describe(self, error: Exception) -> str:
        if isinstance(error, DocoraOpsError):
            return error.message
        if isinstance(error, JobTimeoutException):
            return f"the snapshot took longer than {self.settings.job_timeout} s"
        if isinstance(error, MemoryError):
            return "the job ran out of memory on this repository"
        if isinstance(error, OSError) and host.may_be_to_blame(error):
            return f"the job could not go on: {host.words_of(error)}"
        text = f"a bug in docora-ops: {type(error).__name__}"
        self.tell(f"{text} at {places_of(error)}")
        return text
