"""The host of a worker: its clock, disk, memory, processes, and trusted authorities."""

import errno
import os
import re
import resource
import ssl
import time
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from redis import Redis

from docora_ops.errors import DocoraOpsError, HostFaultError
from docora_ops.queue.redis_client import server_time
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker.log import log

FOLDER = ".docora-ops"  # below REPOS_BASE_PATH, for whatever workers write
_MOST_MEMORY = 2 << 30  # bytes for a job, and for each git that it starts
_CHUNKS = 4  # copies of a chunk that its delivery needs
EXPIRED_HINT = (
    "whoever runs the server must renew its certificate, unless this host's clock is wrong"
)
AUTHORITY_VARIABLES = ("NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # BSD, macOS
)

_TRIAL = 4 << 20  # bytes
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

_OFFSET_TTL = 10  # seconds for which a measured offset is good
# Seconds from the monotonic clock of this host, which never jumps, to Redis's clock.
_offset: float | None = None
_measured_at = 0.0  # by the host's clock, which goes on while the host is suspended


def measure_clock(client: Redis) -> None:
    """Sets the clock of `timestamp` and `now` to Redis's time. Raises redis.RedisError."""
    global _offset, _measured_at  # noqa: PLW0603 - one clock for all that a process writes
    before = time.monotonic()
    redis_time = server_time(client)
    _offset = redis_time - (before + time.monotonic()) / 2
    _measured_at = time.time()


def keep_clock(client: Redis) -> None:
    """Calls `measure_clock` if the last call was over 10 s ago. Raises redis.RedisError."""
    if not 0 <= time.time() - _measured_at < _OFFSET_TTL:
        measure_clock(client)


def timestamp() -> float:
    """Returns Redis's time in seconds since 1970; this host's if Redis was never asked."""
    return time.time() if _offset is None else time.monotonic() + _offset


def now() -> datetime:
    """Returns Redis's time."""
    return datetime.fromtimestamp(timestamp(), UTC)


def seconds_ahead() -> float:
    """Returns by how many seconds the clock of this host is ahead of Redis's."""
    return time.time() - timestamp()


def limit_memory(settings: Settings) -> None:
    """Limits the memory of this process, and of each process that it starts.

    Without a limit, a huge repository or HTTP answer could take all memory of the host.
    """
    limit = _MOST_MEMORY + _CHUNKS * settings.binary_chunk_size_bytes
    # Not RLIMIT_AS: git maps packs of any size, which take no memory of their own.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lower = [bound for bound in (soft, hard) if 0 <= bound < limit]  # -1: unlimited
    resource.setrlimit(resource.RLIMIT_DATA, (min(lower, default=limit), hard))


def is_scarcity(error: BaseException | None) -> bool:
    """Tells whether an error, or one of its causes, may mean that the host lacks a resource.

    Resources are file descriptors, processes, memory, and a writable disk with free space.
    """
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _SCARCE:
            return True
        if isinstance(error, DocoraOpsError) and _SCARCE_WORDS.search(error.message):
            return True
        error = error.__cause__ or error.__context__
    return False


def words_of(error: OSError) -> str:
    """Returns the system's text for an error, with the name of the file if there is one."""
    words = error.strerror or type(error).__name__
    return f"{words}: {error.filename}" if error.filename else words


def find_fault(base: Path) -> HostFaultError | None:
    """Writes 4 MiB below `base` and forks, as jobs must be able to. Returns an error if they can't.

    base: the folder of the clones.
    """
    folder = base.absolute() / FOLDER
    failing = f"can't write to {str(folder)!r}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIAL))
            file.flush()
            os.fsync(file.fileno())  # a quota on a server may strike only now
        failing = "can't start a process"
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", os.strerror(errno.ENOMEM))
        return HostFaultError(
            f"{os.uname().nodename} {failing}: {reason}",
            hint="free space there or set REPOS_BASE_PATH; raise the limits of the worker's user",
        )
    return None


def use_authorities(settings: Settings, base: Path | None) -> None:
    """Makes this process, and git, trust the certificate authorities that the settings name.

    Sets the environment variables that `AUTHORITY_VARIABLES` lists, because OpenSSL and git do not
    read Docora's env file. For git, writes the authorities of the system and of NODE_EXTRA_CA_CERTS
    into one file, unless GIT_SSL_CAINFO is set. If NODE_EXTRA_CA_CERTS can't be used, warns and
    ignores it, as Node does.

    base: the folder of the clones, below which the file for git is written; None for no file.

    Raises HostFaultError if the file can't be written.
    """
    for name in AUTHORITY_VARIABLES:
        if value := getattr(settings, name.lower()):
            os.environ[name] = value
    tls_context.cache_clear()
    if not (extra := os.environ.get("NODE_EXTRA_CA_CERTS")):
        return
    try:
        tls_context()  # cached, so that the file is read once for all jobs
    except OSError as error:
        is_read = isinstance(error, ssl.SSLError)
        reason = "it holds no certificates in PEM form" if is_read else error.strerror
        log.warning("NODE_EXTRA_CA_CERTS is ignored: %s: %s", inert(extra), reason)
        del os.environ["NODE_EXTRA_CA_CERTS"]
        return
    if base is not None and not os.environ.get("GIT_SSL_CAINFO"):
        folder = base.absolute() / FOLDER
        try:
            system = [path for path in map(Path, _SYSTEM_FILES) if path.is_file()][:1]
            content = b"\n".join(path.read_bytes() for path in (*system, Path(extra)))
            # Workers with other settings may share the folder: the name depends on the content.
            path = folder / f"authorities-{sha256(content).hexdigest()[:16]}.pem"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as parts:
                new = Path(parts, path.name)
                new.write_bytes(content)
                new.replace(path)
        except OSError as error:
            raise authorities_fault(repr(str(folder)), error) from error
        os.environ["GIT_SSL_CAINFO"] = str(path)


def authorities_fault(folder: str, error: OSError) -> HostFaultError:
    """Returns the error for a folder to which the authorities for git can't be written."""
    return HostFaultError(
        f"can't write the authorities for git to {folder}: {words_of(error)}",
        hint="free space and make the folder writable, or set GIT_SSL_CAINFO",
    )


@cache
def tls_context() -> ssl.SSLContext:
    """Returns the TLS context for connections to apps. Raises OSError for unusable authorities."""
    context = ssl.create_default_context()
    # Python 3.13 refuses certificates of private authorities that Node takes.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if extra := os.environ.get("NODE_EXTRA_CA_CERTS"):
        context.load_verify_locations(extra)
    return context


def certificate_hint(problem: str) -> str:
    """Returns a hint for a problem with a certificate, as reported by OpenSSL or git."""
    if "expired" in problem:
        return EXPIRED_HINT
    if "not yet valid" in problem:
        return "check this host's clock; otherwise whoever runs the server must replace it"
    if re.search("mismatch|not match|subject name", problem):
        return (
            "use the host name that the certificate is for, or have whoever runs the server "
            "replace it"
        )
    return (
        "if a private authority has issued it, set NODE_EXTRA_CA_CERTS, or for git GIT_SSL_CAINFO, "
        "to a file with the authority's certificate: docora-ops help workers"
    )
