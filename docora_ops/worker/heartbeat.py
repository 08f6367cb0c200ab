"""The heartbeat file, which tells `worker --check` whether the worker of this machine is alive.

The check asks neither Redis nor Postgres: an outage must not look like a worker that hangs.
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from docora_ops.settings import Settings
from docora_ops.text import mask_url


@dataclass(frozen=True)
class Heartbeat:
    """The content of the heartbeat file."""

    worker: str  # the name in RQ, without the number of a process
    pid: int  # of the process that writes the file
    at: float  # by this machine's monotonic clock, which never jumps
    limit_seconds: int  # a worker that is silent for longer hangs, or was killed

    @property
    def age(self) -> float:
        """Returns the seconds since the heartbeat; may be negative if the machine has restarted."""
        return time.monotonic() - self.at

    @property
    def is_recent(self) -> bool:
        """Tells whether the worker is alive: `pid` exists, and `age` is within `limit_seconds`."""
        try:
            os.kill(self.pid, 0)
        except PermissionError:  # of another user
            pass
        except (ProcessLookupError, OverflowError):
            return False
        return 0 <= self.age <= self.limit_seconds


def heartbeat_path(settings: Settings) -> Path:
    """Returns the path of the heartbeat file.

    By default, the path depends on the user and on the URLs of Postgres and Redis.
    """
    if settings.heartbeat_file is not None:
        return settings.heartbeat_file
    folder = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
    urls = (settings.database_url, settings.redis_url)
    places = " ".join(mask_url(url.get_secret_value()) for url in urls if url is not None)
    servers = sha256(places.encode()).hexdigest()[:8]
    return Path(folder) / f"docora-ops-worker-{os.geteuid()}-{servers}.json"


def write_heartbeat(path: Path, heartbeat: Heartbeat) -> None:
    """Replaces the heartbeat file atomically. Raises OSError."""
    new = path.parent / f"{path.name}.{heartbeat.pid}"  # `with_name` refuses `/`
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW  # others may write to /tmp, too
    with os.fdopen(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(heartbeat), file)
    try:
        new.replace(path)
    except OSError:
        new.unlink()
        raise


def read_heartbeat(path: Path) -> Heartbeat | None:
    """Reads the heartbeat file; returns None if the file is missing or unusable."""
    with suppress(OSError, ValueError, TypeError):
        heartbeat = Heartbeat(**json.loads(path.read_text(encoding="utf-8")))
        heartbeat.is_recent  # noqa: B018 - raises TypeError if a field is not a number
        return heartbeat
    return None
