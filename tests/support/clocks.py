"""Processes whose clock is wrong."""

from pathlib import Path

import pytest

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
_WRONG = {"LD_PRELOAD": str(*_LIBRARIES[:1]), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
with_wrong_clock = pytest.mark.skipif(
    not _LIBRARIES, reason="libfaketime, which gives a process a wrong clock, is not installed"
)


def clock_ahead(seconds: int) -> dict[str, str]:
    return _WRONG | {"FAKETIME": f"{seconds:+d}"}


def clock_in(file: Path) -> dict[str, str]:
    """The environment of a process whose clock is ahead by what the file says, such as `+600`."""
    return _WRONG | {"FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
