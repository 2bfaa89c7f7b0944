"""How many bytes the flows of a worker keep together, and which flow has to go when they are too many."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Flow = TypeVar("Flow", bound=Hashable)


class WaitingBytes(Generic[Flow]):
    """What each flow keeps, up to `bytes_max` together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: dict[Flow, int] = {}
        self.total = 0

    def note(self, flow: Flow, size: int) -> Flow | None:
        """That flow keeps `size` bytes now. The flow that keeps most, where all together keep too many: it has to end, and
        is not counted any more."""
        self.total += size - self._kept.pop(flow, 0)
        if size:
            self._kept[flow] = size
        if self.total <= self._bytes_max:
            return None
        most = max(self._kept, key=self._kept.__getitem__)
        self.total -= self._kept.pop(most)
        return most
