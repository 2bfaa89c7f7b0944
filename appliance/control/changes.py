"""What has changed for people who look on: a serial for each sort of thing, and waiting until one of them differs."""

from __future__ import annotations

import asyncio
from enum import StrEnum

WAIT_SECONDS_MAX = 60.0
FLOWS_SECONDS = 0.25
"""Between two moves of the flows' serial: there may be thousands of flows a second, and nobody reads faster."""


class Sort(StrEnum):
    """What people wait for."""

    APPROVALS = "approvals"
    FLOWS = "flows"
    POLICY = "policy"
    HEALTH = "health"


class Changes:
    """Serials only go up, each by itself. `first`: where they begin, another at each start of control, so that whoever
    waited for the one before sees a change."""

    def __init__(self, first: int) -> None:
        self._serials = dict.fromkeys(Sort, first)
        self._moved = asyncio.Event()
        self._has_flows = False

    def serial(self, sort: Sort) -> int:
        """Of one sort."""
        return self._serials[sort]

    def serials(self) -> dict[str, int]:
        """Of all sorts, by their words."""
        return {sort.value: serial for sort, serial in self._serials.items()}

    def move(self, sort: Sort) -> None:
        """Something of that sort is different now."""
        self._serials[sort] += 1
        self._moved.set()
        self._moved = asyncio.Event()

    def note_flows(self) -> None:
        """Flows have changed: their serial moves with the next beat."""
        self._has_flows = True

    async def keep_beat(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(FLOWS_SECONDS)
            if self._has_flows:
                self._has_flows = False
                self.move(Sort.FLOWS)

    async def next_move(self) -> None:
        """The next move of any sort."""
        await self._moved.wait()

    async def wait(self, after: dict[str, int] | None, seconds: float) -> dict[str, int]:
        """The serials as soon as one of them differs from `after`, or when time is up. A sort that `after` lacks differs."""
        if after is not None:
            try:
                async with asyncio.timeout(min(max(seconds, 0.0), WAIT_SECONDS_MAX)):
                    while all(after.get(sort.value) == serial for sort, serial in self._serials.items()):
                        await self._moved.wait()
            except TimeoutError:
                pass
        return self.serials()
