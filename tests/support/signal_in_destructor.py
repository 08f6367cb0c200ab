"""A signal that comes while a destructor runs, where Python swallows what its handler raises."""

import signal
from pathlib import Path

_CODE = """
import signal

class Dying:
    def __del__(self):
        signal.raise_signal(signal.{name})

def die(number, frame):
    Dying()

signal.signal(signal.SIGUSR1, die)
"""

TRIGGER = signal.SIGUSR1
"""Makes such a process run a destructor."""


def dying_on_trigger(folder: Path, number: signal.Signals) -> dict[str, str]:
    """The environment of a process that gets this signal in a destructor."""
    (folder / "sitecustomize.py").write_text(_CODE.format(name=number.name), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}
