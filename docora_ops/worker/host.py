"""The host of a worker: its clock, its disk, and the faults for which no link is to blame."""

import errno
import os
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from redis import Redis

from docora_ops.database import scans
from docora_ops.database.connection import Database
from docora_ops.encryption import count_foreign
from docora_ops.errors import DocoraOpsError, HostFaultError, LinkError, PostgresError, ServerError
from docora_ops.queue.connection import redis_errors, server_time
from docora_ops.settings import Settings
from docora_ops.text import amount
from docora_ops.worker.log import log

FOLDER = ".docora-ops"  # below REPOS_BASE_PATH, for whatever workers write
_TRIAL = 4 << 20  # bytes
# Seconds between the clocks of a worker and of Redis; the clocks of two workers may differ by twice
# as much. An execution expires 90 s after its last heartbeat, by the clock of another worker.
_LARGEST_CLOCK_DIFFERENCE = 20
# The errors of a full disk, a quota, a disk that denies writes, and a host that has no file
# descriptors, processes or memory left.
_SCARCE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
}
# The same errors in the words of git, which runs in the locale C, and in our own messages.
_SCARCE_WORDS = re.compile(
    "out of memory|({})(?! [(]publickey)".format("|".join(map(os.strerror, _SCARCE))), re.IGNORECASE
)
_LONGEST_PAUSE = 10  # seconds between two looks at a fault
_CHECK_TTL = 10  # seconds for which a clock that was right counts as right
_checked_at = 0.0


def check_clock(client: Redis) -> None:
    """Raises HostFaultError if the host's clock differs too much from Redis's.

    Looks at most every 10 s. Raises RedisError.
    """
    global _checked_at  # noqa: PLW0603 - one clock for all jobs of a process
    if 0 <= time.time() - _checked_at < _CHECK_TTL:
        return
    with redis_errors(client):
        ahead = time.time() - server_time(client)
    if abs(ahead) > _LARGEST_CLOCK_DIFFERENCE:
        where = "ahead of" if ahead > 0 else "behind"
        raise HostFaultError(
            f"the clock of {os.uname().nodename} is {abs(ahead):.0f} s {where} Redis's",
            hint=f"set both by NTP, so that they agree to {_LARGEST_CLOCK_DIFFERENCE} s",
        )
    _checked_at = time.time()


def now() -> datetime:
    """Returns the time of this host, which `check_clock` has compared with Redis's."""
    return datetime.now(UTC)


def may_be_to_blame(error: BaseException | None) -> bool:
    """Tells whether the host, rather than the link, may be to blame for an error of a job.

    It may be, if the key or the clock is wrong, or if the error or one of its causes says that the
    host lacks file descriptors, processes, memory, or space on a writable disk.
    """
    while error is not None:
        if isinstance(error, HostFaultError | MemoryError):
            return True
        if isinstance(error, OSError) and error.errno in _SCARCE:
            return True
        if isinstance(error, DocoraOpsError) and _SCARCE_WORDS.search(error.message):
            return True
        if isinstance(error, FileNotFoundError) and error.filename == "git":
            return True
        error = error.__cause__ or error.__context__
    return False


def words_of(error: OSError) -> str:
    """Returns the system's text for an error, with the name of the file if there is one."""
    words = error.strerror or type(error).__name__
    return f"{words}: {error.filename}" if error.filename else words


def fault_behind(error: Exception, settings: Settings, client: Redis) -> DocoraOpsError | None:
    """Returns the fault of the host or of a server that is behind an error of a job, or None."""
    if isinstance(error, ServerError) and not isinstance(error, LinkError):
        return error
    return find_fault(settings, client) if may_be_to_blame(error) else None


def find_fault(settings: Settings, client: Redis) -> DocoraOpsError | None:
    """Returns why every job would fail on this host, or None.

    Reads Redis's clock, asks Postgres whether it takes changes, decrypts some keys, writes 4 MiB,
    and starts git.
    """
    database = Database(settings)
    try:
        check_clock(client)
        if not scans.takes_changes(database):
            return PostgresError(
                f"Postgres database {database.server} takes no changes",
                hint="it is a standby, or default_transaction_read_only is on",
            )
        keys = scans.some_auth_keys(database)
        if count := count_foreign(keys, settings.require_encryption_key()):
            return HostFaultError(
                f"ENCRYPTION_KEY decrypts none of the auth keys of {amount(count, 'app')}",
                hint="start the worker with the ENCRYPTION_KEY that Docora has",
            )
        _try_disk(settings.repos_base_path)
    except DocoraOpsError as error:
        return error
    finally:
        database.close()
    return None


def await_recovery(
    fault: DocoraOpsError, settings: Settings, client: Redis, beat: Callable[[], None]
) -> None:
    """Waits until no fault of the host is left. Calls `beat` at least every 10 s."""
    log.warning("takes no job: %s (%s)", fault.message, fault.hint)
    pause = 1
    while True:
        beat()
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        if find_fault(settings, client) is None:
            log.warning("takes jobs again")
            return


def _try_disk(base: Path) -> None:
    """Writes 4 MiB below the folder of the clones, and starts git. Raises HostFaultError."""
    folder = base.absolute() / FOLDER
    failing = f"can't write to {str(folder)!r}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIAL))
            file.flush()
            os.fsync(file.fileno())  # a quota on a server may strike only now
        failing = "can't start git"
        subprocess.run(["git", "--version"], check=True, capture_output=True, cwd="/")
    except (OSError, MemoryError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise HostFaultError(
            f"{os.uname().nodename} {failing}: {reason}",
            hint="free space there or set REPOS_BASE_PATH; install git 2.31 or newer; raise the "
            "limits of the worker's user",
        ) from error
