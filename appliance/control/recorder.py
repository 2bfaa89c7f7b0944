"""The thread in which journals are taken in, and what is done when they can't be.

SQLite and fsync block, and approvals must not wait for them: so a thread of its own, which is what the keeper asks for too.
While nothing can be taken in, workers go on until their journals are full and then stop, which is the order of wall 2.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from appliance.control.log import Level, log
from appliance.errors import RecordingError
from appliance.recording.index import FlowIndex
from appliance.recording.journal import PartName
from appliance.recording.keeper import Keeper
from appliance.recording.keys import Keys
from appliance.recording.places import Places
from appliance.recording.records import Noted
from appliance.recording.segments import Taken

T = TypeVar("T")

# What only a worker that was taken over, or somebody with its rights, does to a live journal.
_TAMPERING = frozenset({"broken chain", "journal gone", "journal shrunk"})

DRAIN_SECONDS = 0.1
RETRY_SECONDS = 5.0
ALARMS_MAX = 100
INDEX_SECONDS = 1.0
INDEX_STEP_SECONDS = 0.01
NOTES_MAX = 10_000
"""That wait to be recorded while nothing can be."""

DRAINS_MAX = 10_000
"""For one request to take in everything: under load there is always more, and what was there at first is in long before."""


class Recorder:
    """Takes journals in, a few times a second and on demand."""

    def __init__(
        self, places: Places, keys: Keys, distrust: Callable[[int, str], None], taken: Callable[[], None] = lambda: None
    ) -> None:
        """`distrust` is told, in the loop's own thread, which process's journal is not what it should be, and why; `taken`,
        there too, that there are new records of flows."""
        self._distrust = distrust
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = places
        self._keys = keys
        self._thread = ThreadPoolExecutor(1, "keeper")
        self._keeper: Keeper | None = None
        # Reading again what the index missed takes long, and drains must not wait for it.
        self._index_thread = ThreadPoolExecutor(1, "index")
        self._index = FlowIndex(places)
        self._taken = taken
        self.fault = ""
        # By the clock that only goes forward.
        self.drained_at = time.monotonic()
        self.records = 0
        # For each journal the place up to which it is taken in.
        self.reached: dict[str, int] = {}
        self.alarms: deque[str] = deque(maxlen=ALARMS_MAX)
        self._notes: deque[tuple[str, str]] = deque(maxlen=NOTES_MAX)

    async def open(self) -> None:
        """Raises RecordingError where the recording can't go on."""
        self._loop = asyncio.get_running_loop()
        await self._in_thread(self._open)

    async def keep_draining(self) -> None:
        """Until cancelled."""
        while True:
            try:
                taken = await self._in_thread(self._drain)
            except RecordingError as error:
                if not self.fault:
                    log("recording stopped", level=Level.ERROR, reason=error)
                self.fault = str(error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if self.fault:
                log("recording goes on")
                self.fault = ""
            self.records += taken
            await asyncio.sleep(DRAIN_SECONDS)

    async def keep_index(self) -> None:
        """Until cancelled: read again what the index of flows missed, in small steps, so that the loop gets its turns."""
        while True:
            is_more = self._index.is_behind and await self._in_index_thread(self._index.catch_up)
            await asyncio.sleep(INDEX_STEP_SECONDS if is_more else INDEX_SECONDS)

    @property
    def index_fault(self) -> str:
        """Why flows are not found quickly, if they are not."""
        return self._index.fault

    @property
    def is_index_behind(self) -> bool:
        """Whether flows may be missing in the index."""
        return self._index.is_behind

    async def drain_soon(self, seconds: float) -> None:
        """What was written to journals before is found afterwards; under load, or where nothing can be taken in, it may not
        be: nobody waits longer than `seconds`."""
        drain = asyncio.ensure_future(self._in_thread(self._drain))
        await asyncio.wait([drain], timeout=seconds)
        drain.add_done_callback(self._count_drained)

    async def drain_all(self) -> int:
        """How many records were taken in until none were left. Raises RecordingError."""
        total = 0
        for _ in range(DRAINS_MAX):
            taken = await self._in_thread(self._drain)
            total += taken
            if not taken:
                break
        self.records += total
        return total

    def note(self, sort: str, text: str) -> None:
        """Put what a person did (a sort of records.DEEDS) into the recording, with the next drain."""
        log(sort, text=text)
        if len(self._notes) == NOTES_MAX:
            log("note left out", level=Level.ERROR, sort=self._notes[0][0], text=self._notes[0][1])
        self._notes.append((sort, text))

    async def close(self) -> None:
        """Take in what there is and let go."""
        try:
            await self._in_thread(self._close)
        except RecordingError as error:
            log("recording not closed", level=Level.ERROR, reason=error)
        self._thread.shutdown(wait=True)
        self._index_thread.shutdown(wait=True)
        self._index.close()

    def _count_drained(self, drain: asyncio.Future[int]) -> None:
        # A fault comes again with the next regular drain, which says it.
        if not drain.cancelled() and drain.exception() is None:
            self.records += drain.result()

    async def _in_index_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._index_thread, work)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        self._keeper = Keeper(self._places, self._keys, alarm=self._alarm, taken=self._take)
        self._index.open()

    def _drain(self) -> int:
        if self._keeper is None or self._keeper.dead is not None:
            if self._keeper is not None:
                self._keeper.close()
            self._open()
        assert self._keeper is not None
        self._pass_notes(self._keeper)
        taken = self._keeper.drain()
        self.drained_at = time.monotonic()
        # Put in place whole, because the loop's thread reads it.
        self.reached = self._keeper.reached()
        return taken

    def _close(self) -> None:
        if self._keeper is not None:
            self._pass_notes(self._keeper)
            self._keeper.close()

    def _pass_notes(self, keeper: Keeper) -> None:
        # The loop's thread adds at the one end while this one takes from the other.
        while self._notes:
            keeper.note(*self._notes.popleft())

    def _take(self, taken: Taken) -> None:
        self._index.take(taken)
        if taken.flows and self._loop is not None:
            self._loop.call_soon_threadsafe(self._taken)

    def _alarm(self, note: Noted) -> None:
        if not note.is_alarm:
            return
        self.alarms.append(f"{note.sort}: {note.text}")
        log("recording alarm", level=Level.ERROR, sort=note.sort, text=note.text, journal=note.journal)
        named = PartName.read(f"{note.journal}-000001.journal")
        if note.sort in _TAMPERING and named is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._distrust, named.process, f"{note.sort}: {note.text}")
