"""Lists that may grow long: kept in a file once they are, so that memory stays flat."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from tempfile import SpooledTemporaryFile
from typing import Generic, TypeVar, overload
from weakref import finalize

from docora_ops.errors import ConfigurationError

Item = TypeVar("Item")
Fields = Sequence[str | None]

_IN_MEMORY = 4 << 20
"""Bytes; what is longer lies on disk."""


class Spool(Sequence[Item], Generic[Item]):
    """A list that items can be added to. Raises ConfigurationError where the disk takes no more."""

    def __init__(self, fields_of: Callable[[Item], Fields], made_of: Callable[[Fields], Item]):
        self._fields_of = fields_of
        self._made_of = made_of
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - lives as long as the list
        finalize(self, self._file.close)
        self._starts = array("Q")
        self._end = 0

    def append(self, item: Item) -> None:
        """Add one."""
        line = json.dumps(self._fields_of(item)).encode() + b"\n"
        try:
            self._file.seek(self._end)
            self._file.write(line)
        except OSError as error:
            raise ConfigurationError(
                f"a temporary file can't be written: {error.strerror}",
                hint="make room there, or point TMPDIR at a folder that has some",
            ) from error
        self._starts.append(self._end)
        self._end += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        self._file.seek(self._starts[index])
        return self._made_of(json.loads(self._file.readline()))

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))
