"""Plays one small round of `make chaos`, with a seed that the seed of the tests decides."""

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chaos.__main__ import SMALL, driver


@pytest.mark.slow
def test_a_small_round() -> None:
    seed = random.randrange(1_000_000)
    with TemporaryDirectory(prefix="docora-ops-chaos-", ignore_cleanup_errors=True) as folder:
        directory = Path(folder)
        directory.chmod(0o755)
        with driver(seed, SMALL, directory) as chaos:
            chaos.play(1)
