"""A person at the desk who answers every hold of one database the same way, for runs with nobody there."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Final

from lab.laboratory import Lab
from ui.conversation import NoAnswer, Refused, ask_control

# How long one question at the desk waits before we look whether the run is over.
_WAIT_SECONDS: Final = 0.5


class Approver:
    """`with Approver(...) as approver:` answers from a thread of its own; `asked` are the commands it was asked about."""

    def __init__(self, lab: Lab, database: str, *, approve: bool) -> None:
        self._run = str(lab.appliance_folder / "run")
        self._database = database
        self._approve = approve
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._answer_all)
        self.asked: list[str] = []

    def __enter__(self) -> Approver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    def _answer_all(self) -> None:
        after = -1
        while not self._is_over.is_set():
            with contextlib.suppress(NoAnswer):
                found = ask_control(self._run, "approvals.wait", after=after, seconds=_WAIT_SECONDS)
                after = found["serial"]
                for case in found["approvals"]:
                    if case["database"] == self._database and case["state"] == "open":
                        self._answer(case["id"], case["bound"], case["shown"])

    def _answer(self, approval: str, seen: str, shown: str) -> None:
        self.asked.append(shown)
        verb = "approvals.approve" if self._approve else "approvals.reject"
        reason = "" if self._approve else "nobody approves this here"
        with contextlib.suppress(Refused):  # it was withdrawn meanwhile
            ask_control(self._run, verb, approval=approval, seen=seen, reason=reason)
