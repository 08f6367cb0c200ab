"""Measures a function in a new process and compares measurements."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

Results = dict[str, list["Measured"]]
"""Measurements by way, in the order of the rounds."""


@dataclass(frozen=True)
class Measured:
    """The work of one process."""

    amount: int
    """Links or files."""
    seconds: float
    peak_mib: float

    @property
    def microseconds(self) -> float:
        """Returns the time per link or file."""
        return self.seconds / self.amount * 1e6


def measure(module: str, *arguments: str) -> Measured:
    """Runs a module of this package, which calls `report`."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return Measured(**json.loads(output))


def report(work: Callable[[], int]) -> None:
    """Does the work, which returns its amount, and prints the measurement as JSON."""
    start = time.perf_counter()
    amount = work()
    seconds = time.perf_counter() - start
    # Not getrusage: its peak begins with the memory of the parent process.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak_mib = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps(asdict(Measured(amount, seconds, peak_mib))))


def show(results: Results, baseline: str) -> None:
    """Prints a line for each way: the median, and the ratio to the baseline of the same round."""
    for way, items in results.items():
        pairs = zip(items, results[baseline], strict=True)
        ratio = statistics.median(item.microseconds / base.microseconds for item, base in pairs)
        item = sorted(items, key=lambda item: item.microseconds)[len(items) // 2]
        print(
            f"  {way:<20}{1e6 / item.microseconds:>9,.0f} per s{item.microseconds:>9.1f} µs each"
            f"{item.peak_mib:>6.0f} MiB   {baseline} is {ratio:.2f} times as fast",
            flush=True,
        )
