"""What a worker counts: plain sums that only grow, told to control about once a second.

Counting stands in every command's way, so it is attributes and small dictionaries, all of bounded size: protocols, rules,
resources and agents are the configuration's, the rest are words of this program.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from time import perf_counter

from appliance.decisions import Forward, Hold, Refuse, Verdict
from appliance.ipc.messages import ADDED_BOUNDS, Counted
from appliance.parties import Side

Sums = dict[tuple[str, ...], float]

_OUTCOMES: dict[type[Verdict], str] = {Forward: "forward", Hold: "hold", Refuse: "refuse"}


class Meter:
    """What is counted for all flows of one protocol; `rules` is shared with the other protocols."""

    __slots__ = ("_added", "_outcomes", "_rules", "_seconds", "client_bytes", "holds", "target_bytes", "uncovered")

    def __init__(self, rules: dict[str, int]) -> None:
        self._rules = rules
        self._outcomes: dict[type[Verdict], int] = dict.fromkeys(_OUTCOMES, 0)
        self._added = [0] * (len(ADDED_BOUNDS) + 1)
        self._seconds = 0.0
        self.uncovered = 0
        self.holds: Counter[str] = Counter()
        self.client_bytes = 0
        self.target_bytes = 0

    def judged(self, verdict: Verdict) -> None:
        """A verdict was found."""
        self._outcomes[type(verdict)] += 1
        rules, rule = self._rules, verdict.rule
        if rule is None:
            self.uncovered += 1
        else:
            rules[rule.id] = rules.get(rule.id, 0) + 1
        if not isinstance(verdict, Refuse) and verdict.obligations.maskers:
            for masker in verdict.obligations.maskers:
                rules[masker] = rules.get(masker, 0) + 1

    def added(self, seconds: float) -> None:
        """What one turn of a flow took here: see Turns."""
        self._added[bisect_left(ADDED_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def sums(self, protocol: str) -> Sums:
        """Everything, as a Tally has it."""
        found: Sums = {(Counted.VERDICTS, protocol, _OUTCOMES[kind]): count for kind, count in self._outcomes.items()}
        found[Counted.UNCOVERED, protocol] = self.uncovered
        found |= {(Counted.HOLDS, protocol, end): count for end, count in self.holds.items()}
        found[Counted.BYTES, protocol, Side.CLIENT.value] = self.client_bytes
        found[Counted.BYTES, protocol, Side.TARGET.value] = self.target_bytes
        found |= {(Counted.ADDED, protocol, str(number)): count for number, count in enumerate(self._added) if count}
        found[Counted.ADDED_SECONDS, protocol] = self._seconds
        return found


class Turns:
    """Measures one flow's turns: what a command took here, with the beginning of its answer. However many commands come at
    once, they are one turn; where a client sends more before an answer has begun, each such step is one of its own.
    `has_sent`: a command was let through in the step that runs."""

    __slots__ = ("_seconds", "has_sent", "meter")

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.has_sent = False
        # How long the step took whose answer is still to come.
        self._seconds: float | None = None

    def step(self, side: Side, size: int, began: float) -> float:
        """So many bytes of a side are dealt with, since `began` (time.perf_counter). For how many seconds."""
        seconds = perf_counter() - began
        meter = self.meter
        if side is Side.TARGET:
            meter.target_bytes += size
            if self._seconds is not None:
                meter.added(self._seconds + seconds)
                self._seconds = None
            return seconds
        meter.client_bytes += size
        if self.has_sent:
            self.has_sent = False
            if self._seconds is not None:
                meter.added(self._seconds)
            self._seconds = seconds
        return seconds


class WorkerTally:
    """What is counted in one worker."""

    def __init__(self) -> None:
        self._rules: dict[str, int] = {}
        self._meters: dict[str, Meter] = {}
        # By resource and agent; by resource and reason.
        self.opened: Counter[tuple[str, str]] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.late_seconds = 0.0

    def meter(self, protocol: str) -> Meter:
        """The one of that protocol."""
        meter = self._meters.get(protocol)
        if meter is None:
            meter = self._meters[protocol] = Meter(self._rules)
        return meter

    def sums(self) -> Sums:
        """Everything, as a Tally has it."""
        found: Sums = {(Counted.RULES, rule): count for rule, count in self._rules.items()}
        found |= {(Counted.OPENED, *labels): count for labels, count in self.opened.items()}
        found |= {(Counted.REFUSED, *labels): count for labels, count in self.refused.items()}
        found[Counted.LATE_SECONDS,] = round(self.late_seconds, 2)
        for protocol, meter in self._meters.items():
            found |= meter.sums(protocol)
        return found
