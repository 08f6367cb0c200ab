"""Keeps a bare shallow clone of each repository, which all its links share."""

import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from docora_ops.errors import BrokenCloneError, GitError, SnapshotError
from docora_ops.worker.git import Git
from docora_ops.worker.objects import Objects

FOLDER = ".docora-ops"
"""The folder below REPOS_BASE_PATH that holds whatever workers write."""
_OWNER_ONLY = 0o700
_HEAD = "refs/docora-ops/head"
_IDENTITY = "docora-ops-clone"
_MAIN = "refs/heads/main"
_COMMIT = re.compile("[0-9a-f]{40}")
_ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
"""The content type of a list of branches. To git any other short text is a list without any."""
_DAY = 86_400


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


class Clone:
    """The clone of one repository, in a folder below `base_path` that Docora does not use.

    Other users cannot read the clone and its scan, which hold private code. Raises SnapshotError
    for an unsafe owner or name.
    """

    def __init__(self, base_path: Path, owner: str, name: str, git: Git) -> None:
        self._base_path = base_path
        self._folder = base_path / FOLDER
        self.path = _path_below(self._folder / "clones", owner, name)
        self._mark = hashlib.sha256(f"{owner}/{name}".encode()).hexdigest()[:16]
        self._git = git
        self._synced = ""

    def sync(self) -> Commit | None:
        """Brings the clone to the head of `main` or, if there is no `main`, of the default branch.

        Returns None if the repository shows no branch, and leaves the clone as it is. Must not run
        twice at once for one repository. Raises GitError if the repository cannot be fetched, and
        SnapshotError if the disk cannot be written.
        """
        try:
            self._make_folders()
            self._remove_temporary()
            commit = self._sync()
            self._synced = self._identity()
        except OSError as error:
            raise SnapshotError(
                f"the clone can't be written below REPOS_BASE_PATH: {error.strerror}: "
                f"{error.filename}"
            ) from error
        return commit

    def discard(self) -> None:
        """Removes the clone of the last `sync`, unless another job has replaced it since.

        Must not run while another job syncs. Raises SnapshotError.
        """
        try:
            if self._is_clone() and self._identity() == self._synced:
                self._remove()
        except OSError as error:
            raise SnapshotError(f"a broken clone can't be removed: {error.strerror}") from error

    def objects(self) -> Objects:
        """Returns a reader of the clone's files."""
        return Objects(self._git, self.path)

    def _sync(self) -> Commit | None:
        commit = self._remote_head()
        if commit is None or self._local_head() == commit.sha:
            return commit
        if self._is_ours():
            try:
                self._fetch(self.path, commit.branch)
            except GitError:
                # The server has just answered, so the clone may be broken.
                self._replace(commit.branch)
        else:
            self._replace(commit.branch)
        head = self._local_head()
        if head is None:
            raise BrokenCloneError(f"the new clone of {self._git.url} can't be read")
        return replace(commit, sha=head)

    def _remove(self) -> None:
        with tempfile.TemporaryDirectory(
            dir=self._folder, prefix=f"{self._mark}-", ignore_cleanup_errors=True
        ) as folder:
            self.path.rename(Path(folder) / "discarded")

    def _identity(self) -> str:
        """Returns a random text that each new clone gets; the system reuses inodes."""
        try:
            return (self.path / _IDENTITY).read_text(encoding="ascii")
        except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
            return ""

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
        types = self._git.media_types
        if self._git.location.startswith("http") and _ADVERTISEMENT not in types:
            raise GitError(
                f"{self._git.url} answers with {types[-1] if types else 'no content type'}, not "
                "with git's list of branches: is a gateway or a login page in between?"
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

        In a working tree git would read a committed file named `config` as its settings.
        """
        return self._is_clone() and not (self.path / ".git").exists()

    def _is_clone(self) -> bool:
        """Returns whether there is a clone. Raises SnapshotError if there are other files."""
        if any((self.path / name).exists() for name in ("HEAD", "objects", ".git")):
            return True
        try:
            is_empty = next(self.path.iterdir(), None) is None
        except FileNotFoundError:
            return False
        if not is_empty:
            raise SnapshotError(f"{self.path} is in the way, and is not a clone")
        return False

    def _replace(self, branch: str) -> None:
        folder = Path(tempfile.mkdtemp(dir=self._folder, prefix=f"{self._mark}-"))
        try:
            _make_empty_clone(folder)
            self._fetch(folder, branch)
            if self._is_clone():
                self._remove()
            folder.rename(self.path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, clone: Path, branch: str) -> None:
        source = branch if branch == "HEAD" else f"refs/heads/{branch}"
        options = ["--quiet", "--force", "--no-tags", "--depth=1", "--no-write-fetch-head"]
        if not _may_need_maintenance(clone):
            options.append("--no-auto-maintenance")  # which starts two more processes
        self._git.run(["fetch", *options, "--", self._git.location, f"+{source}:{_HEAD}"], clone)

    def _make_folders(self) -> None:
        """Creates the folders above the clone, closed to other users."""
        self._base_path.mkdir(parents=True, exist_ok=True)
        owner = self.path.parent
        for folder in (self._folder, owner.parent, owner):
            folder.mkdir(mode=_OWNER_ONLY, exist_ok=True)

    def _remove_temporary(self) -> None:
        """Removes temporary files that killed jobs of this repository have left."""
        for temporary in self._folder.iterdir():
            if temporary.name.startswith(f"{self._mark}-"):
                shutil.rmtree(temporary, ignore_errors=True)
        for temporary in self.path.glob("docora-ops-scan.*"):
            with suppress(FileNotFoundError):  # another job may have renamed it
                if time.time() - temporary.stat().st_mtime > _DAY:
                    temporary.unlink()


def _make_empty_clone(folder: Path) -> None:
    """Makes the folder a bare repository without objects, as `git init` does."""
    for name in ("objects", "refs"):
        (folder / name).mkdir(mode=_OWNER_ONLY)
    for name, text in (
        ("HEAD", "ref: refs/heads/main\n"),
        ("config", "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"),
        (_IDENTITY, os.urandom(16).hex()),
    ):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text, encoding="ascii")


def _may_need_maintenance(clone: Path) -> bool:
    """Returns whether the clone has nearly as many objects or packs as git begins to tidy at.

    git counts the objects in this one of 256 folders, too: 27 of them, or 50 packs.
    """
    limits = {"objects/17": 20, "objects/pack": 80}  # up to three files for each pack
    for name, limit in limits.items():
        with suppress(FileNotFoundError):
            if len(list((clone / name).iterdir())) > limit:
                return True
    return False


def _path_below(clones: Path, owner: str, name: str) -> Path:
    for part in (owner, name):
        if part in {"", ".", ".."} or "/" in part or "\0" in part:
            raise SnapshotError(f"{owner!r} / {name!r} would leave REPOS_BASE_PATH")
    path = clones / owner / name
    if path.is_symlink() or path.parent.is_symlink():
        raise SnapshotError(f"{owner!r} / {name!r} would leave REPOS_BASE_PATH")
    return path
