"""How open pages hear of changes: control is asked once for all of them, and each page is told that something moved.

A page is told what moved, never the content: it fetches that itself, with its own session and its own rights.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from appliance.log import Level, Log
from ui.web.control import AskingError, Away, Control, SignedOut

STREAMS_MAX: Final = 200
STREAMS_PER_SESSION_MAX: Final = 12
# Shorter than what proxies between browser and us give an idle connection. The session is looked at as often.
BEAT_SECONDS: Final = 20.0
POLL_SECONDS: Final = 25.0
AGAIN_SECONDS: Final = 1.0
RETRY_MILLISECONDS: Final = 1000


class TooManyStreams(AskingError):
    """There are enough open pages."""


class _Stream:
    """One open page. What it has not been told yet is kept once, however often it happened."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.pending: dict[str, str] = {}
        self.moved = asyncio.Event()

    def tell(self, event: str, data: str) -> None:
        self.pending[event] = data
        self.moved.set()


class _Telling(StreamingResponse):
    """The stream of events; `left` is called when it has ended, however that came."""

    def __init__(self, told: AsyncIterator[bytes], left: Callable[[], None]) -> None:
        super().__init__(told, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


class Live:
    """All open pages. `follow` is to run for as long as the process."""

    def __init__(self, control: Control, log: Log) -> None:
        self._control = control
        self._log = log
        self._streams: set[_Stream] = set()
        self._anybody = asyncio.Event()
        self._serials: dict[str, int] | None = None
        self._is_away = False

    async def follow(self) -> None:
        """Ask control for what changes while anybody looks, with the session of one of them."""
        while True:
            if not self._streams:
                self._anybody.clear()
                self._serials = None
                await self._anybody.wait()
            stream = next(iter(self._streams))
            try:
                answer: dict[str, Any] = await self._control.ask(
                    stream.token, "changes.wait", after=self._serials, seconds=POLL_SECONDS
                )
            except SignedOut:
                stream.tell("signed-out", "{}")
                self._streams.discard(stream)
                continue
            except AskingError as error:
                if not self._is_away:
                    self._is_away = True
                    self._log("changes are not told", level=Level.WARNING, reason=error)
                    self._tell_all("away", "{}")
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            serials = answer["serials"]
            if self._is_away:
                self._is_away = False
                self._tell_all("back", "{}")
            if serials != self._serials:
                self._serials = serials
                self._tell_all("changed", json.dumps(serials))

    def open(self, token: str) -> Response:
        """What to answer a page that wants to hear of changes. Raises TooManyStreams."""
        own = sum(stream.token == token for stream in self._streams)
        if len(self._streams) >= STREAMS_MAX or own >= STREAMS_PER_SESSION_MAX:
            raise TooManyStreams("Too many pages are open; close some.")
        stream = _Stream(token)
        self._streams.add(stream)
        self._anybody.set()
        return _Telling(self._told(stream), lambda: self._streams.discard(stream))

    async def _told(self, stream: _Stream) -> AsyncIterator[bytes]:
        yield f"retry: {RETRY_MILLISECONDS}\nevent: hello\ndata: {json.dumps(self._serials or {})}\n\n".encode()
        clock = asyncio.get_running_loop().time
        looked = clock()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(looked + BEAT_SECONDS):
                    await stream.moved.wait()
            stream.moved.clear()
            pending, stream.pending = stream.pending, {}
            # However much there is to tell, nobody hears it for long after a sign-out.
            if clock() >= looked + BEAT_SECONDS:
                looked = clock()
                if not await self._is_signed_in(stream):
                    pending = {"signed-out": "{}"}
            for event, data in pending.items():
                yield f"event: {event}\ndata: {data}\n\n".encode()
            if "signed-out" in pending:
                return
            if not pending:
                yield b": still here\n\n"

    async def _is_signed_in(self, stream: _Stream) -> bool:
        try:
            # Waiting for changes is no use of a session: one that nobody uses ends, whatever page is left open.
            await self._control.ask(stream.token, "changes.wait", seconds=0)
        except SignedOut:
            return False
        except Away:
            return True
        return True

    def _tell_all(self, event: str, data: str) -> None:
        for stream in self._streams:
            stream.tell(event, data)
