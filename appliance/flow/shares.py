"""How much of a worker's time each agent gets while others are there: whose turn it is, and for how long.

A worker is one thread, so while it works for one flow all others wait. What a flow's bytes need is mostly tens of
microseconds; a client that sends thousands of commands at once, or an agent with thousands of busy flows, would keep it for
seconds. So work is done in steps: a flow that has worked for STEP_SECONDS goes on in a later turn of the event loop, and an
agent that has had as much in this turn waits with all its flows. Of those who wait one agent works in each turn, one after
the other, so that whoever asks for little waits for one step of somebody else's at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter

STEP_SECONDS = 0.001
"""Some ten to thirty ordinary commands. Shorter steps cost more for going round the loop than they give."""

ALONE_SECONDS = 0.02
"""A step while nobody else is there: what control says, timers and the agent's own other flows wait no longer than this."""

ARRIVALS_PER_SECOND = 50
ARRIVALS_AT_ONCE = 100
"""Connections of one agent that a worker takes up while others are there, at length and at once. Each costs about as much
as ten commands, before its client has said who it is."""

ARRIVAL_SECONDS_MAX = 10.0
"""How long a connection waits for that before it is refused."""

Step = Callable[[], None]


class Share:
    """One agent's. `spent` is what it has had in this turn of the loop, in seconds."""

    __slots__ = ("_arrivals", "_last_arrival", "_shares", "flows", "spent", "waiting")

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._arrivals = float(ARRIVALS_AT_ONCE)
        self._last_arrival = 0.0
        self.spent = 0.0
        self.waiting: deque[Step] = deque()
        self.flows = 0

    @property
    def step_seconds(self) -> float:
        """How long a step may be now."""
        return self._shares.step_seconds

    @property
    def is_spent(self) -> bool:
        """Whether the agent has to wait for a turn. One that is alone here never has to: nobody would gain by it."""
        return (self.spent >= STEP_SECONDS or bool(self.waiting)) and self._shares.has_several

    def arrival_delay(self, now: float) -> float | None:
        """For how many seconds one more connection of the agent has to wait before it is taken up; None: it is too many."""
        if not self._shares.has_several and not self.flows:
            return 0.0
        earned = (now - self._last_arrival) * ARRIVALS_PER_SECOND
        self._last_arrival = now
        self._arrivals = min(float(ARRIVALS_AT_ONCE), self._arrivals + earned)
        if not self._shares.has_several:
            return 0.0
        if self._arrivals - 1 < -ARRIVALS_PER_SECOND * ARRIVAL_SECONDS_MAX:
            return None
        self._arrivals -= 1
        return max(0.0, -self._arrivals / ARRIVALS_PER_SECOND)

    def spend(self, seconds: float) -> None:
        """It has worked for so long. Not counted while nobody else is there to wait for it."""
        if not self._shares.has_several:
            return
        if self._shares.has_several:
            if not self.spent:
                self._shares.note(self)
            self.spent += seconds

    def wait(self, step: Step) -> None:
        """Run `step` when it is the agent's turn again. It takes care itself not to run much longer than step_seconds."""
        self.waiting.append(step)
        if len(self.waiting) == 1:
            self._shares.queue(self)


class Shares:
    """All agents' in one worker. `call_soon` runs something in the next turn of the loop, when what the kernel has for us is
    done. `alone_seconds` is how long a step may be while one agent alone is there."""

    def __init__(self, call_soon: Callable[[Step], object], alone_seconds: float = ALONE_SECONDS) -> None:
        self._call_soon = call_soon
        self._alone_seconds = alone_seconds
        self._shares: dict[str, Share] = {}
        self._noted: list[Share] = []
        self._queue: deque[Share] = deque()
        self._is_due = False
        self.has_several = False
        self.step_seconds = alone_seconds

    def of(self, agent: str) -> Share:
        """That agent's."""
        share = self._shares.get(agent)
        if share is None:
            share = self._shares[agent] = Share(self)
        return share

    def enter(self, agent: str) -> Share:
        """The agent has one flow more."""
        share = self.of(agent)
        share.flows += 1
        self._see()
        return share

    def leave(self, agent: str) -> None:
        """The agent has one flow less."""
        self._shares[agent].flows -= 1
        self._see()

    def note(self, share: Share) -> None:
        """It has worked in this turn."""
        self._noted.append(share)
        self._come_back()

    def queue(self, share: Share) -> None:
        """It has something to do in a later turn."""
        self._queue.append(share)
        self._come_back()

    def _see(self) -> None:
        self.has_several = sum(share.flows > 0 for share in self._shares.values()) > 1
        self.step_seconds = STEP_SECONDS if self.has_several else self._alone_seconds

    def _come_back(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        for share in self._noted:
            share.spent = 0.0
        self._noted.clear()
        if not self._queue:
            return
        share = self._queue.popleft()
        until = perf_counter() + self.step_seconds
        # No further than what waits now: what steps add comes later, or this could go on for ever.
        for _ in range(len(share.waiting)):
            share.waiting.popleft()()
            if perf_counter() >= until:
                break
        if share.waiting and share not in self._queue:
            self._queue.append(share)
        if self._queue:
            self._come_back()
