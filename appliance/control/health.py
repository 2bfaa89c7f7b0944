"""Whether the appliance does its work, check by check, each in a sentence with what to do about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from appliance.approvals.desk import OPEN_MAX
from appliance.approvals.ledger import Ledger
from appliance.catching import read_look
from appliance.control.accounts import Accounts
from appliance.control.catalogues import Catalogues
from appliance.control.policies import PolicyFolder
from appliance.control.recorder import Recorder
from appliance.control.workers import Workers
from appliance.errors import RecordingError

LOOK_SECONDS_MAX = 5.0
"""The supervisor looks once a second; after this long nobody looks any more."""

UNDONE_SECONDS = 600.0
"""How long it is said that somebody took rules away."""

DRAIN_SECONDS_MAX = 5.0
FREE_BYTES_MIN = 256 << 20
"""One segment; below, the recording stops soon, and with it all traffic."""

STEP_SECONDS = 2.0
"""A clock that moves further than this against the one that only goes forward was set, not slewed."""

STEP_SAID_SECONDS = 600.0
FULL_SHARE = 0.9
_CATALOGUES_NAMED_MAX = 5


class State(StrEnum):
    """How a check came out. UNKNOWN: nobody says."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    state: State
    sentence: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class HealthSources:
    """Where the answers are. `clock` only goes forward, as CLOCK_MONOTONIC does; `wall` is the Unix clock; both in seconds.
    `workers_wanted` is how many there should be."""

    run: str
    state: str
    workers_wanted: int
    workers: Workers
    recorder: Recorder
    policies: PolicyFolder
    catalogues: Catalogues
    ledger: Ledger
    accounts: Accounts
    waiting: Callable[[], int]
    clock: Callable[[], float]
    wall: Callable[[], float]


class Health:
    """All checks. `look` is to be called about once a second: a step of the clock is only seen against the call before."""

    def __init__(self, sources: HealthSources) -> None:
        self._of = sources
        self._offset = sources.wall() - sources.clock()
        self._stepped = 0.0
        self._stepped_at: float | None = None
        self._states: tuple[State, ...] = ()

    def look(self) -> bool:
        """Whether any check comes out otherwise than at the call before."""
        offset = self._of.wall() - self._of.clock()
        if abs(offset - self._offset) > STEP_SECONDS:
            self._stepped, self._stepped_at = offset - self._offset, self._of.clock()
        self._offset = offset
        states = tuple(check.state for check in self.checks())
        is_new, self._states = states != self._states, states
        return is_new

    def checks(self) -> list[Check]:
        """Every check as it comes out now."""
        return [
            self._catching(),
            self._workers(),
            self._recording(),
            self._index(),
            self._disk(),
            self._policy(),
            self._catalogues(),
            self._approvals(),
            self._people(),
            self._clock(),
        ]

    def _catching(self) -> Check:
        name, now = "catching", self._of.clock()
        look = read_look(self._of.run)
        if look is None:
            return Check(
                name,
                State.UNKNOWN,
                "Nobody says whether executors' connections are caught.",
                "Start the appliance with `sluicegate up`, whose supervisor looks at the kernel's rules every second.",
            )
        age = now - look.clock
        if not -1.0 < age <= LOOK_SECONDS_MAX:
            return Check(
                name,
                State.BAD,
                f"The supervisor last looked at the kernel's rules {max(age, 0.0):.0f} s ago; it should every second.",
                "See whether the supervisor (root's process) still runs and what it logged last; start the appliance again.",
            )
        if look.fault:
            return Check(
                name,
                State.BAD,
                f"Executors cannot be caught: {look.fault}",
                "Nothing of theirs passes meanwhile. Mend what the sentence names; the supervisor tries again every second.",
            )
        if look.undone_at is not None and now - look.undone_at <= UNDONE_SECONDS:
            return Check(
                name,
                State.BAD,
                f"Rules in the kernel were taken away and put back {max(now - look.undone_at, 0.0):.0f} s ago"
                f" ({look.undone} times since the start): {' '.join(look.found) or 'see the log'}",
                "Find out who or what changes nftables or routes on this machine, such as a firewall service, and stop it.",
            )
        return Check(name, State.GOOD, f"Executors' connections are caught; looked {max(age, 0.0):.1f} s ago.")

    def _workers(self) -> Check:
        present, wanted = len({worker.index for worker in self._of.workers.present()}), self._of.workers_wanted
        if present >= wanted:
            return Check("workers", State.GOOD, f"All {wanted} workers serve." if wanted > 1 else "The worker serves.")
        return Check(
            "workers",
            State.BAD,
            f"{present} of {wanted} workers serve." if present else "No worker serves: every connection is refused.",
            "The supervisor starts them again by itself; its log says why they ended.",
        )

    def _recording(self) -> Check:
        name, recorder = "recording", self._of.recorder
        if recorder.fault:
            return Check(
                name,
                State.BAD,
                f"Nothing can be recorded: {recorder.fault}",
                "Commands stop once journals are full. Make room on the disk, or mend what the sentence names.",
            )
        lag = self._of.clock() - recorder.drained_at
        if lag > DRAIN_SECONDS_MAX:
            return Check(
                name,
                State.BAD,
                f"Journals were last taken in {lag:.0f} s ago.",
                "The disk is slow or the machine overloaded; see its load and the disk's.",
            )
        if recorder.alarms:
            return Check(
                name,
                State.BAD,
                f"{len(recorder.alarms)} alarms since the start, the last: {recorder.alarms[-1]}",
                "Run `sluicegate verify`, and keep the folder recording/quarantine of the state for whoever looks into it.",
            )
        return Check(name, State.GOOD, f"Records are kept; {recorder.records} taken in since the start.")

    def _index(self) -> Check:
        if self._of.recorder.index_fault:
            return Check(
                "index",
                State.BAD,
                self._of.recorder.index_fault,
                "Recorded flows are found slowly or not at all on pages; the recording itself goes on. See the disk.",
            )
        if self._of.recorder.is_index_behind:
            return Check("index", State.UNKNOWN, "The index of flows is being made; some flows are not on pages yet.")
        return Check("index", State.GOOD, "Recorded flows are indexed.")

    def _disk(self) -> Check:
        try:
            disk = os.statvfs(self._of.state)
        except OSError as error:
            return Check("disk", State.UNKNOWN, f"{self._of.state} cannot be looked at: {error.strerror}.")
        free = disk.f_bavail * disk.f_frsize
        share = free / max(disk.f_blocks * disk.f_frsize, 1)
        said = f"{free / (1 << 30):.1f} GiB ({share:.0%}) are free where recordings are kept."
        if free < FREE_BYTES_MIN:
            advice = (
                f"Make room under {self._of.state}: when it is full, commands are refused, because none goes unrecorded."
            )
            return Check("disk", State.BAD, said, advice)
        return Check("disk", State.GOOD, said)

    def _policy(self) -> Check:
        policy = self._of.policies
        if policy.fault:
            return Check(
                "policy",
                State.BAD,
                f"The policy files have faults, and the policy before them stays in force: {policy.fault}",
                "Mend the file; it is read again by itself. `sluicegate policy check` says the same before it is in place.",
            )
        count = len(policy.in_force.policy.rules)
        if not count:
            return Check("policy", State.BAD, "There are no rules, so everything is refused.", "Write a rule that allows.")
        return Check("policy", State.GOOD, f"{count} rules are in force, version {policy.in_force.policy.version[:12]}.")

    def _catalogues(self) -> Check:
        states = self._of.catalogues.states()
        faults = [f"{state['resource']}/{state['database']}: {state['fault']}" for state in states if state["fault"]]
        if faults:
            more = f" and {len(faults) - _CATALOGUES_NAMED_MAX} more" if len(faults) > _CATALOGUES_NAMED_MAX else ""
            return Check(
                "catalogues",
                State.BAD,
                f"What exists at a target cannot be read: {'; '.join(faults[:_CATALOGUES_NAMED_MAX])}{more}",
                "Commands there are refused. See whether the target answers and whether its credential is right.",
            )
        return Check("catalogues", State.GOOD, f"{len(states)} catalogues are known.")

    def _approvals(self) -> Check:
        waiting = self._of.waiting()
        try:
            self._of.ledger.settled(1)
        except RecordingError as error:
            return Check(
                "approvals",
                State.BAD,
                f"Approvals cannot be kept: {error}",
                "Nobody can answer a hold until the file can be written; see the disk and the file's owner.",
            )
        if waiting >= OPEN_MAX * FULL_SHARE:
            return Check(
                "approvals",
                State.BAD,
                f"{waiting} commands wait for people; beyond {OPEN_MAX} more are refused.",
                "Answer some, or see which agent asks so much.",
            )
        return Check("approvals", State.GOOD, f"{waiting} commands wait for people." if waiting else "Nothing waits.")

    def _people(self) -> Check:
        accounts = self._of.accounts
        if accounts.fault:
            return Check(
                "people",
                State.BAD,
                f"Nobody can sign in: {accounts.fault}",
                "Mend or remove the file and start again; without it there is one new administrator.",
            )
        return Check("people", State.GOOD, f"{len(accounts.listed())} accounts.")

    def _clock(self) -> Check:
        now = self._of.clock()
        if self._stepped_at is not None and now - self._stepped_at <= STEP_SAID_SECONDS:
            return Check(
                "clock",
                State.BAD,
                f"The clock was set {'forward' if self._stepped > 0 else 'back'} by {abs(self._stepped):.0f} s,"
                f" {now - self._stepped_at:.0f} s ago.",
                "Times recorded around that moment are off, and holds end early or late. Let a time service slew the clock.",
            )
        return Check("clock", State.GOOD, "The clock runs evenly.")


def check_data(check: Check) -> dict[str, Any]:
    """As JSON has it."""
    return {"name": check.name, "state": check.state.value, "sentence": check.sentence, "advice": check.advice}
