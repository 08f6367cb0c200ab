"""Keeps and reads one bare shallow clone per repository, shared by the repository's links."""

import codecs
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple
from uuid import uuid4

import redis
from redis.exceptions import LockNotOwnedError
from redis.lock import Lock

from docora_ops.errors import BrokenCloneError, GitError, RepositoryBusyError, SnapshotError
from docora_ops.queue.connection import redis_errors
from docora_ops.text import inert
from docora_ops.worker import host
from docora_ops.worker.git import PIECE, Git, stop
from docora_ops.worker.log import log

_HEAD = "refs/docora-ops/head"
_MAIN = "refs/heads/main"
_COMMIT = re.compile("[0-9a-f]{40}")
_LOCK_TTL = 120  # seconds, as in Docora's own workers
LOCK_TIMEOUT = 3.0  # seconds that a job keeps its slot to wait for the lock
LOCK_PAUSE = 10  # seconds until the next try, in which other jobs can use the slot
# git's maintenance takes two processes, so it runs only if the commit id begins with this: 1 in 16.
_MAINTAINED = "0"
_MOST_REQUESTED = 64  # objects at once: their ids fit into the buffer of a pipe
# Files and folders of a commit. A few nested trees, each repeated, can make billions of paths.
_MOST_PATHS = 1_000_000
_LONGEST_PATH = 4096  # bytes; Linux can check out no longer path
_LONGEST_ENTRY = _LONGEST_PATH + len(f"100644 blob {40 * '0'}\t")
# git creates no such paths, but accepts them from a server.
_UNSAFE_PATH = re.compile(rb"(^|/)(\.{0,2}|\.git)(/|$)", re.IGNORECASE)
_SCAN = "docora-ops-scan"
_LONGEST_WRITE = 3600  # seconds; an older unfinished scan belongs to a killed job
# Change this whenever a scan records something else about the same file.
_VERSION = 5


@dataclass(frozen=True, slots=True)
class Commit:
    """The newest commit of the branch that is delivered."""

    sha: str
    branch: str


class File(NamedTuple):
    """A regular file of a commit.

    path: as Docora writes it, with U+FFFD in place of bytes that are not UTF-8.
    sha: SHA-256 of the content, in hex.
    is_text: the file is sent as text: it is UTF-8 without NUL, and not a PDF.
    """

    path: str
    object_id: str
    sha: str
    size: int
    is_text: bool


def newest_commit(git: Git) -> Commit | None:
    """Asks the server for the head of `main` or, if there is no `main`, of the default branch.

    Returns None if the repository shows no branch. Raises GitError.
    """
    default = "HEAD"
    commits: dict[str, str] = {}
    for line in git.list_refs("HEAD", _MAIN).splitlines():
        value, _, name = line.partition("\t")
        if not value.startswith("ref: "):
            commits[name] = value
        elif name == "HEAD":
            default = value.removeprefix("ref: ").removeprefix("refs/heads/")
    # Docora's own worker delivers `main` and knows no other branch.
    if _MAIN in commits:
        return Commit(commits[_MAIN], "main")
    if "HEAD" in commits:
        return Commit(commits["HEAD"], default)
    if git.list_refs("refs/heads/*").strip():
        raise GitError(f"{git.url} has no branch main, and its default branch does not exist")
    return None


class RepositoryLock:
    """The lock of a repository. It is in Redis because several hosts may share the clones.

    full_name: `owner/name` of the repository.
    """

    def __init__(self, client: redis.Redis, full_name: str) -> None:
        self._client = client
        self._full_name = full_name
        self._lock = Lock(client, f"docora:repo-lock:{full_name}", timeout=_LOCK_TTL)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock until the `with` block ends.

        Waits up to 3 s for the lock. Raises RedisError, RepositoryBusyError.
        """
        with redis_errors(self._client):
            is_ours = self._lock.acquire(blocking_timeout=LOCK_TIMEOUT)
        if not is_ours:
            raise RepositoryBusyError(f"another job has the lock of {self._full_name}")
        try:
            yield
        finally:
            with suppress(redis.RedisError):  # a lock that cannot be released expires
                self._lock.release()

    def renew(self) -> None:
        """Resets the TTL of the lock if this process holds the lock.

        Raises SnapshotError if the lock has expired; RedisError.
        """
        if self._lock.local.token is None:
            return
        with redis_errors(self._client):
            try:
                self._lock.reacquire()
            except LockNotOwnedError as error:
                lost = f"the lock of {self._full_name} was lost while git worked"
                raise SnapshotError(lost) from error


class Clone:
    """The clone of one repository, in docora-ops's own folder below `base_path`.

    Other users can't read the clone, because the code may be private. A job takes the lock only to
    fetch into the clone or to remove the clone. Raises SnapshotError for an unsafe owner or name.
    """

    def __init__(
        self, base_path: Path, owner: str, name: str, git: Git, lock: RepositoryLock
    ) -> None:
        self._folder = base_path / host.FOLDER
        self.path = self._folder / "clones" / owner / name
        is_safe = not any(
            part in {"", ".", ".."} or "/" in part or "\0" in part for part in (owner, name)
        )
        if not is_safe or self.path.is_symlink() or self.path.parent.is_symlink():
            raise SnapshotError(f"{owner!r} / {name!r} would leave REPOS_BASE_PATH")
        self._mark = hashlib.sha256(f"{owner}/{name}".encode()).hexdigest()[:16]
        self._git = git
        self._lock = lock

    def sync(self) -> Commit | None:
        """Brings the clone to the newest commit, and returns the commit.

        If the repository shows no branch, returns None, and leaves the clone as it is. Raises
        GitError if the repository can't be fetched; RedisError, SnapshotError.
        """
        commit = newest_commit(self._git)
        if commit is None or self._local_head() == commit.sha:
            return commit
        try:
            with self._lock.held():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.path.parent.mkdir(parents=True, exist_ok=True)
                local = self._local_head()
                if local != commit.sha:  # another job may have fetched it meanwhile
                    self._update(commit, is_new=local is None)
                # Another commit may have been pushed meanwhile.
                return Commit(self._local_head() or commit.sha, commit.branch)
        except OSError as error:
            raise SnapshotError(
                f"the clone can't be written below REPOS_BASE_PATH: {host.words_of(error)}"
            ) from error

    def remove(self) -> None:
        """Removes a broken clone, so that the next try makes a new one.

        Raises RedisError, RepositoryBusyError.
        """
        with self._lock.held():
            shutil.rmtree(self.path, ignore_errors=True)

    def _local_head(self) -> str | None:
        try:  # without git, which takes longer
            commit = (self.path / _HEAD).read_bytes().decode(errors="replace").strip()
        except OSError:
            return None
        return commit if _COMMIT.fullmatch(commit) else None

    def _update(self, commit: Commit, *, is_new: bool) -> None:
        if not is_new:
            # The server has just answered. If this fails, the clone may be broken.
            with suppress(GitError):
                self._fetch(self.path, commit)
                return
        for left_by_killed_job in self._folder.glob(f"{self._mark}-*"):
            shutil.rmtree(left_by_killed_job, ignore_errors=True)
        # A unique name: a job that has lost the lock must not remove the clone of another job.
        new = self._folder / f"{self._mark}-{uuid4().hex}"
        try:
            (new / "objects").mkdir(parents=True)
            (new / "refs").mkdir()
            (new / "HEAD").write_text("ref: refs/heads/main\n", encoding="ascii")
            self._fetch(new, commit)
            shutil.rmtree(self.path, ignore_errors=True)
            new.rename(self.path)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _fetch(self, clone: Path, commit: Commit) -> None:
        source = commit.branch if commit.branch == "HEAD" else f"refs/heads/{commit.branch}"
        options = ["--quiet", "--force", "--no-tags", "--depth=1", "--no-write-fetch-head"]
        if not commit.sha.startswith(_MAINTAINED):
            options.append("--no-auto-maintenance")
        refs = f"+{source}:{_HEAD}"
        self._git.run(["fetch", *options, "--", self._git.location, refs], clone)


class Objects:
    """Reads the objects of a clone through one `git cat-file`, which the first read starts.

    Reading raises BrokenCloneError, possibly in the middle of an object.
    """

    def __init__(self, git: Git, clone: Path) -> None:
        self._git = git
        self._clone = clone
        self._running: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """Ends git."""
        if self._running is not None:
            stop(self._running)

    def read(self, object_ids: Iterable[str]) -> Iterator[Iterator[bytes]]:
        """Yields the content of each file, as an iterator of pieces.

        Exhaust each iterator before you take the next one.
        """
        if self._running is None:
            self._running = self._git.start(["cat-file", "--batch"], self._clone)
        stdin, stdout = self._running.stdin, self._running.stdout
        assert stdin and stdout  # noqa: S101, PT018 - pipes
        left = iter(object_ids)
        while batch := list(islice(left, _MOST_REQUESTED)):
            with suppress(OSError):  # git has ended, so reading its output fails
                stdin.write("".join(f"{object_id}\n" for object_id in batch).encode())
                stdin.flush()
            for object_id in batch:
                yield self._receive(stdout, object_id)

    def _receive(self, stdout: IO[bytes], object_id: str) -> Iterator[bytes]:
        broken = BrokenCloneError(f"the clone {self._clone} is broken at object {object_id}")
        fields = stdout.readline().split()
        if len(fields) != 3 or fields[1] != b"blob":  # noqa: PLR2004 - id, type, size
            raise broken
        left = int(fields[2])
        while left:
            piece = stdout.read(min(left, PIECE))
            if not piece:
                raise broken
            left -= len(piece)
            yield piece
        if stdout.read(1) != b"\n":
            raise broken


def list_files(git: Git, clone: Path, commit: str) -> list[tuple[str, str]]:
    """Returns path and object id of the regular files of a commit, in byte order of the paths.

    Logs and leaves out files with unsafe paths. Raises GitError if the commit has too many paths,
    or a path that is too long; BrokenCloneError.
    """
    files, paths = [], 0
    process = git.start(["ls-tree", "-r", "-t", "-z", "--full-tree", commit], clone)
    assert process.stdout  # noqa: S101 - a pipe
    try:
        rest = b""
        while piece := process.stdout.read(PIECE):
            *entries, rest = (rest + piece).split(b"\0")
            paths += len(entries)
            if paths > _MOST_PATHS or any(len(entry) > _LONGEST_ENTRY for entry in entries):
                raise GitError(
                    f"the commit {commit} has more than {_MOST_PATHS:,} paths, or one of more than "
                    f"{_LONGEST_PATH:,} bytes"
                )
            for entry in entries:
                facts, _, path = entry.partition(b"\t")
                mode, _, object_id = facts.decode().split()
                if not mode.startswith("100"):  # a folder, a link, or another repository
                    continue
                if _UNSAFE_PATH.search(path):
                    shown = inert(path.decode(errors="replace"))
                    log.warning("not sent, its path is not safe: %s", shown)
                else:
                    files.append((path, object_id))
        if process.wait():
            raise BrokenCloneError(f"the clone {clone} is broken at commit {commit}")
    finally:
        stop(process)
    return [(path.decode(errors="replace"), object_id) for path, object_id in sorted(files)]


def scan(git: Git, clone: Path, commit: str, objects: Objects) -> Sequence[File]:
    """Returns the regular files of the commit, sorted by path. Stores this list in the clone.

    If a list of this commit is stored, returns that list. If a list of another commit is stored,
    reads only files that are new or changed. Raises BrokenCloneError, SnapshotError.
    """
    stored = clone / _SCAN
    known: dict[tuple[str, str], File] = {}
    # The file is not synced to the disk, so a power cut may have damaged it.
    with suppress(FileNotFoundError, ValueError, TypeError):
        version, known_commit, rows = json.loads(stored.read_bytes())
        if version == _VERSION:
            files = [File(*row) for row in rows]
            if known_commit == commit:
                return files
            known = {(file.path, file.object_id): file for file in files}
    entries = list_files(git, clone, commit)
    contents = objects.read(entry[1] for entry in entries if entry not in known)
    files = [known.get(entry) or _hash(*entry, next(contents)) for entry in entries]
    new = stored.with_suffix(f".{uuid4().hex}")  # another job may store its scan meanwhile
    try:
        new.touch()
        long_ago = new.stat().st_mtime - _LONGEST_WRITE  # by the clock of the file system
        for other in clone.glob(f"{_SCAN}.*"):
            with suppress(FileNotFoundError):  # its job is done with it
                if other.stat().st_mtime < long_ago:  # that job was killed
                    other.unlink()
        new.write_text(json.dumps((_VERSION, commit, files)))
        new.replace(stored)
    except OSError as error:
        raise SnapshotError(f"the scan can't be written: {error.strerror}") from error
    finally:
        with suppress(OSError):  # it was stored, or could not be created
            new.unlink()
    return files


def _hash(path: str, object_id: str, content: Iterable[bytes]) -> File:
    size = 0
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_text = True
    for piece in chain(content, [b""]):  # the empty piece reveals a character that is cut off
        is_text = is_text and (size > 0 or not piece.startswith(b"%PDF-")) and b"\0" not in piece
        size += len(piece)
        digest.update(piece)
        if is_text:
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError:
                is_text = False
    return File(path, object_id, digest.hexdigest(), size, is_text)
