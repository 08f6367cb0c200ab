"""Lists that lie on disk once they are long."""

from __future__ import annotations

import errno

import pytest

from docora_ops import spool
from docora_ops.errors import ConfigurationError
from docora_ops.spool import Spool


def new_list() -> Spool[tuple[str | None, ...]]:
    return Spool(lambda item: item, tuple)


@pytest.mark.parametrize("in_memory", [1 << 20, 64])
def test_a_list_gives_back_what_it_was_given(
    monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(spool, "_IN_MEMORY", in_memory)
    items = [(f"line\n{number}", None, "\udcff", "é") for number in range(50)]
    kept = new_list()
    for number, item in enumerate(items):
        kept.append(item)
        assert kept[number // 2] == items[number // 2]
    assert (len(kept), list(kept), kept[-1]) == (50, items, items[-1])
    assert (kept[3:7], kept[48:99], kept[60:]) == (items[3:7], items[48:], [])
    assert list(new_list()) == []


def test_a_full_disk_is_an_error_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = new_list()

    def refuse(_: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept._file, "write", refuse)
    with pytest.raises(ConfigurationError, match="No space left"):
        kept.append(("x",))
