"""Where long statements are read: a process beside the worker, so that all other flows go on meanwhile.

Reading takes some microseconds for each character and cannot be interrupted: a megabyte takes seconds. The process has
nothing of the worker's: no socket, no secret, no journal. It gets a text with the catalogue it is read by, and answers what
the text does; where it does not answer in time, or ends, the text is not understood, which means refused. It is started when
it is first needed, ends with the worker, and reads one text at a time, each agent's in its turn.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import resource
import struct
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from appliance.effects import unknown
from appliance.protocols.inspector import ReadingQuestion
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import Problem, Reading

COMMAND: Final = (sys.executable, "-m", "appliance.flow.study")

READ_SECONDS_MAX: Final = 30.0
"""The longest text that is read at all takes a few seconds, on a busy machine some more."""

WAITING_PER_AGENT_MAX: Final = 8
"""Texts of one agent that wait to be read; each may have a megabyte. More have to be sent again."""

FRAME_BYTES_MAX: Final = 256 << 20
_MEMORY_BYTES_MAX: Final = 4 << 30
_NICE: Final = 10
_CATALOGUES_MAX: Final = 4
_LENGTH: Final = struct.Struct(">I")


@dataclass(slots=True, eq=False)
class _Job:
    question: ReadingQuestion
    answer: asyncio.Future[Reading]


class Study:
    """One worker's. `command` is what is run as the process."""

    def __init__(self, command: Sequence[str] = COMMAND, seconds_max: float = READ_SECONDS_MAX) -> None:
        self._command = tuple(command)
        self._seconds_max = seconds_max
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        # By agent, in the order in which they have their turn.
        self._waiting: dict[str, deque[_Job]] = {}
        self._has_work = asyncio.Event()
        self._encoded: dict[int, tuple[Catalogue, bytes]] = {}
        self._sent: Catalogue | None = None

    async def read(self, agent: str, question: ReadingQuestion) -> Reading:
        """What the text does. Where that could not be found out, a reading with a problem that says so."""
        waiting = self._waiting.setdefault(agent, deque())
        if len(waiting) >= WAITING_PER_AGENT_MAX:
            return not_read(question, "too many long statements wait to be read; send it again, or in parts")
        job = _Job(question, asyncio.get_running_loop().create_future())
        waiting.append(job)
        self._has_work.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        return await job.answer

    async def close(self) -> None:
        """End the process, and answer nobody any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._end()

    async def _work(self) -> None:
        while True:
            await self._has_work.wait()
            agent, waiting = next(iter(self._waiting.items()))
            del self._waiting[agent]
            job = waiting.popleft()
            if waiting:
                self._waiting[agent] = waiting  # behind the others
            if not self._waiting:
                self._has_work.clear()
            # Whoever asked may have left.
            if not job.answer.done():
                found = await self._find(job.question)
                if not job.answer.done():
                    job.answer.set_result(found)

    async def _find(self, question: ReadingQuestion) -> Reading:
        try:
            async with asyncio.timeout(self._seconds_max):
                found = await self._exchange(question)
        except (OSError, EOFError, TimeoutError, pickle.PickleError):
            await self._end()
            return not_read(question, "the statement could not be read in time; send it in parts")
        return found if found is not None else not_read(question, "the statement could not be read")

    async def _exchange(self, question: ReadingQuestion) -> Reading | None:
        if self._process is None or self._process.returncode is not None:
            self._sent = None
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        catalogue = None if self._sent is question.catalogue else self._encode(question.catalogue)
        self._sent = question.catalogue
        session = replace(question.session, prepared=dict(question.session.prepared), cursors=dict(question.session.cursors))
        process.stdin.write(_framed((catalogue, question.text, session)))
        await process.stdin.drain()
        (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
        # The process reads hostile texts and nothing else; whoever takes it over has what a worker has that does so itself.
        answer = pickle.loads(await process.stdout.readexactly(length))
        return answer if isinstance(answer, Reading) else None

    def _encode(self, catalogue: Catalogue) -> bytes:
        known = self._encoded.get(id(catalogue))
        if known is None:
            if len(self._encoded) >= _CATALOGUES_MAX:
                self._encoded.clear()
            known = self._encoded[id(catalogue)] = (catalogue, msgspec.msgpack.encode(catalogue))
        return known[1]

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def not_read(question: ReadingQuestion, why: str) -> Reading:
    """The reading of a text of which nothing is known."""
    return Reading(
        statements=(),
        effects=frozenset({unknown(why)}),
        shown=f"(a statement of {len(question.text)} characters that was not read)",
        sensitive=True,
        problem=Problem("54001", why),
    )


def _framed(value: Any) -> bytes:
    body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def _main() -> None:
    """The process: frames on standard input, answers on standard output, until the worker closes the former."""
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES_MAX, _MEMORY_BYTES_MAX))
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    catalogue: Catalogue | None = None
    while head := asked.read(_LENGTH.size):
        encoded, text, session = pickle.loads(asked.read(_LENGTH.unpack(head)[0]))
        if encoded is not None:
            catalogue = msgspec.msgpack.decode(encoded, type=Catalogue)
        assert catalogue is not None
        answers.write(_framed(read(text, catalogue, session)))
        answers.flush()


if __name__ == "__main__":
    _main()
