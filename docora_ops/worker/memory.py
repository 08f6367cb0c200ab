"""Limits the memory of a job: what a repository holds, and a server answers, may be endless."""

from __future__ import annotations

import resource

from docora_ops.settings import Settings

_MOST = 2 << 30
"""Bytes for a job, and for each git that it starts."""
_CHUNKS = 4
"""Copies of a chunk that its delivery needs."""


def limit_memory(settings: Settings) -> None:
    """Limits the memory of this process and of each that it starts, where the system can."""
    limit = _MOST + _CHUNKS * settings.binary_chunk_size_bytes
    # Not RLIMIT_AS: git maps packs of any size, which take no memory of their own.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lower = [each for each in (soft, hard) if 0 <= each < limit]
    resource.setrlimit(resource.RLIMIT_DATA, (min(lower, default=limit), hard))


def memory_limit() -> str:
    """Returns the limit of this process in words."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return "no limit" if limit < 0 else f"limit {limit >> 20:,} MiB"
