"""A worker whose clones are on a file system of its own, which a test fills and empties."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.docora import COMMAND
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import Running, running_program

# root keeps its own namespace of users, or it could not enter the folders of others.
_AS_ROOT = () if os.geteuid() == 0 else ("--user", "--map-root-user")
_MOUNT = ("unshare", *_AS_ROOT, "--mount", "sh", "-ec")


def _why_not() -> str:
    """Why this user can't mount anything; empty if it can."""
    if shutil.which(_MOUNT[0]) is None:
        return "unshare is not installed"
    command = [*_MOUNT, "mount -t tmpfs none /mnt"]
    return subprocess.run(command, capture_output=True, check=False, text=True).stderr.strip()


_WHY_NOT = _why_not()
with_own_mounts = pytest.mark.skipif(
    bool(_WHY_NOT), reason=f"no mount in a namespace of its own: {_WHY_NOT}"
)


class Disk:
    """The folder of the clones, as the worker sees it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        with (self._path / "filler").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(1 << 12))
                except OSError:
                    return

    def free(self) -> None:
        (self._path / "filler").unlink()


@contextmanager
def worker_on_disk(
    snapshots: Snapshots, *arguments: str, mebibytes: int = 16, **changes: str | None
) -> Iterator[tuple[Disk, Running]]:
    """A worker of the installed command, in a mount namespace in which the clones have a tmpfs."""
    snapshots.repos.mkdir(parents=True)
    script = f'mount -t tmpfs -o size={mebibytes}m docora "$0" && exec "$@"'
    command = (*_MOUNT, script, str(snapshots.repos), str(COMMAND), "worker", *arguments)
    with running_program(command, snapshots, **changes) as worker:
        worker.await_ready()
        yield Disk(Path(f"/proc/{worker.pid}/root{snapshots.repos}")), worker
