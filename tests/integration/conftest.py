"""What the tests that call actions directly have in common."""

from __future__ import annotations

import pytest

from docora_ops.actions import bulk, single


@pytest.fixture(autouse=True)
def second_look_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of these tests look twice."""
    monkeypatch.setattr(single, "SECOND_LOOK_DELAY", 0.01)
    monkeypatch.setattr(bulk, "SECOND_LOOK_DELAY", 0.01)
