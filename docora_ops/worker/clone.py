"""Keeps a bare shallow clone of each repository, which all its links share."""

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import redis
from redis.exceptions import LockNotOwnedError
from redis.lock import Lock

from docora_ops.errors import BrokenCloneError, GitError, SnapshotError
from docora_ops.queue.redis_client import redis_errors
from docora_ops.worker.git import Git

FOLDER = ".docora-ops"
"""The folder below REPOS_BASE_PATH that holds whatever workers write."""
_OWNER_ONLY = 0o700
_HEAD = "refs/docora-ops/head"
_MAIN = "refs/heads/main"
_COMMIT = re.compile("[0-9a-f]{40}")
_LOCK_TTL = 120
"""Seconds, as in Docora's own workers."""
LOCK_TIMEOUT = 60.0
"""Seconds to wait for the lock of a repository."""
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 2.0
"""Seconds between two attempts to take the lock: they double from the first pause to this one.

Apps of one repository often wait in the queue one behind the other, and git needs a moment only.
"""


@dataclass(frozen=True, slots=True)
class Commit:
    """The newest commit of the branch that is delivered."""

    sha: str
    branch: str
    default_branch: str

    @property
    def label(self) -> str:
        """The branch, and the default branch if that is another one."""
        if self.branch == self.default_branch:
            return self.branch
        return f"{self.branch} (default branch: {self.default_branch})"


class RepositoryLock:
    """The key `docora:repo-lock:{owner}/{name}`: one process of all hosts has git at work.

    Hosts may share the volume of the clones.
    """

    def __init__(self, client: redis.Redis, full_name: str) -> None:
        self._client = client
        self._full_name = full_name
        self._lock = Lock(client, f"docora:repo-lock:{full_name}", timeout=_LOCK_TTL)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock for the block.

        Raises RedisError, and SnapshotError if another worker has held the lock for a minute.
        """
        with redis_errors(self._client):
            is_ours = self._acquire()
        if not is_ours:
            raise SnapshotError(
                f"another worker has held the lock of {self._full_name} for over {LOCK_TIMEOUT:g} s"
            )
        try:
            yield
        finally:
            # A lock that cannot be released expires.
            with suppress(redis.RedisError):
                self._lock.release()

    def _acquire(self) -> bool:
        end = time.monotonic() + LOCK_TIMEOUT
        pause = _FIRST_PAUSE
        while not self._lock.acquire(blocking=False):
            if time.monotonic() + pause > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return True

    def renew(self) -> None:
        """Sets the TTL again. Raises RedisError, and SnapshotError if the lock was lost."""
        with redis_errors(self._client):
            try:
                self._lock.reacquire()
            except LockNotOwnedError as error:
                raise SnapshotError(
                    f"the lock of {self._full_name} was lost while git worked"
                ) from error


class Clone:
    """The clone of one repository, in a folder below `base_path` that Docora does not use.

    Other users cannot read the clone and its scan, which hold private code. It changes under the
    lock only. Raises SnapshotError for an unsafe owner or name.
    """

    def __init__(
        self, base_path: Path, owner: str, name: str, git: Git, lock: RepositoryLock
    ) -> None:
        self._folder = base_path / FOLDER
        self.path = _path_below(self._folder / "clones", owner, name)
        self._mark = hashlib.sha256(f"{owner}/{name}".encode()).hexdigest()[:16]
        self._git = git
        self._lock = lock

    def sync(self, *, anew: bool = False) -> Commit | None:
        """Brings the clone to the head of `main` or, if there is no `main`, of the default branch.

        `anew`: replaces the clone, which is broken.

        Returns None if the repository shows no branch, and leaves the clone as it is. Raises
        GitError if the repository cannot be fetched, RedisError, and SnapshotError if the lock
        cannot be had or the disk cannot be written.
        """
        try:
            with self._lock.held():
                self._make_folders()
                commit = self._remote_head()
                if commit is None or (not anew and self._local_head() == commit.sha):
                    return commit
                self._update(commit.branch, anew=anew)
                head = self._local_head()
        except OSError as error:
            raise SnapshotError(
                f"the clone can't be written below REPOS_BASE_PATH: {error.strerror}: "
                f"{error.filename}"
            ) from error
        if head is None:
            raise BrokenCloneError(f"the new clone of {self._git.url} can't be read")
        return replace(commit, sha=head)

    def remove(self) -> None:
        """Removes a clone that cannot be read, so that the next job makes a new one."""
        with self._lock.held():
            shutil.rmtree(self.path, ignore_errors=True)

    def _make_folders(self) -> None:
        """Makes the folders above the clone, and removes what killed jobs of it have left."""
        owner = self.path.parent
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self._folder, owner.parent, owner):
            folder.mkdir(mode=_OWNER_ONLY, exist_ok=True)
        for left_by_killed_job in self._folder.glob(f"{self._mark}-*"):
            shutil.rmtree(left_by_killed_job, ignore_errors=True)

    def _remote_head(self) -> Commit | None:
        """Asks the server for `main` and the default branch; returns None if there is no branch."""
        default = "HEAD"
        commits: dict[str, str] = {}
        for line in self._git.list_refs("HEAD", _MAIN).splitlines():
            value, _, name = line.partition("\t")
            if not value.startswith("ref: "):
                commits[name] = value
            elif name == "HEAD":
                default = value.removeprefix("ref: ").removeprefix("refs/heads/")
        # Docora's own worker delivers `main` and knows no other branch.
        if _MAIN in commits:
            return Commit(commits[_MAIN], "main", default if default != "HEAD" else "main")
        if "HEAD" in commits:
            return Commit(commits["HEAD"], default, default)
        if self._git.list_refs("refs/heads/*").strip():
            raise GitError(
                f"{self._git.url} has no branch main, and its default branch does not exist"
            )
        return None

    def _local_head(self) -> str | None:
        """Returns the commit of the clone, if it has one."""
        if not self._is_ours():
            return None
        try:
            # Read without git, whose start takes longer.
            commit = (self.path / _HEAD).read_bytes().decode(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            try:
                # Maintenance moves the ref to another file.
                commit = self._git.run(["rev-parse", "--verify", _HEAD], self.path).strip()
            except GitError:
                return None
        return commit if _COMMIT.fullmatch(commit) else None

    def _is_ours(self) -> bool:
        """Returns whether git may run in the folder: only in a bare clone.

        In a working tree git would read a committed file named `config` as its settings. Raises
        SnapshotError if there are other files.
        """
        if (self.path / ".git").exists():
            return False
        if (self.path / "HEAD").exists() or (self.path / "objects").exists():
            return True
        if self.path.exists() and any(self.path.iterdir()):
            raise SnapshotError(f"{self.path} is in the way, and is not a clone")
        return False

    def _update(self, branch: str, *, anew: bool) -> None:
        """Fetches the branch, into a new clone if the present one does not take it."""
        is_ours = self._is_ours()
        if is_ours and not anew:
            # The server has just answered, so after a failure the clone may be broken.
            with suppress(GitError):
                self._fetch(self.path, branch)
                return
        folder = Path(tempfile.mkdtemp(dir=self._folder, prefix=f"{self._mark}-"))
        try:
            _make_empty_clone(folder)
            self._fetch(folder, branch, "--no-auto-maintenance")  # which starts two more processes
            if self.path.exists():
                shutil.rmtree(self.path)
            folder.rename(self.path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, clone: Path, branch: str, *options: str) -> None:
        source = branch if branch == "HEAD" else f"refs/heads/{branch}"
        shallow = ("--quiet", "--force", "--no-tags", "--depth=1", "--no-write-fetch-head")
        refs = f"+{source}:{_HEAD}"
        self._git.run(["fetch", *shallow, *options, "--", self._git.location, refs], clone)


def _make_empty_clone(folder: Path) -> None:
    """Makes the folder a bare repository without objects, as `git init` does."""
    for name in ("objects", "refs"):
        (folder / name).mkdir(mode=_OWNER_ONLY)
    for name, text in (
        ("HEAD", "ref: refs/heads/main\n"),
        ("config", "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"),
    ):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text, encoding="ascii")


def _path_below(clones: Path, owner: str, name: str) -> Path:
    path = clones / owner / name
    is_safe = not any(
        part in {"", ".", ".."} or "/" in part or "\0" in part for part in (owner, name)
    )
    if not is_safe or path.is_symlink() or path.parent.is_symlink():
        raise SnapshotError(f"{owner!r} / {name!r} would leave REPOS_BASE_PATH")
    return path
