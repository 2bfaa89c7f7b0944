"""A person at the desk who answers every hold of a database the same way, for runs with nobody there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from lab.laboratory import Lab
from ui.conversation import NoAnswer, Refused, ask_control

# How long one question at the desk waits before we look whether all is over.
_WAIT_SECONDS: Final = 2.0


class Approver:
    """`with Approver(lab) as approver:` sits at the desk in a thread of its own; what to answer is said by `answering`."""

    def __init__(self, lab: Lab) -> None:
        self._run = str(lab.appliance_folder / "run")
        self._answers: dict[str | None, tuple[bool, list[str]]] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sit)

    def __enter__(self) -> Approver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    @contextlib.contextmanager
    def answering(self, database: str | None, *, approve: bool) -> Iterator[list[str]]:
        """Inside, every hold of that database is approved or rejected; the list fills with the commands that were held.
        None is what a target without databases has."""
        asked: list[str] = []
        self._answers[database] = (approve, asked)
        try:
            yield asked
        finally:
            del self._answers[database]

    def _sit(self) -> None:
        after = -1
        while not self._is_over.is_set():
            with contextlib.suppress(NoAnswer):
                found = ask_control(self._run, "approvals.wait", after=after, seconds=_WAIT_SECONDS)
                after = found["serial"]
                for case in found["approvals"]:
                    answer = self._answers.get(case["database"])
                    if answer is not None and case["state"] == "open":
                        self._answer(case["id"], case["bound"], case["shown"], *answer)

    def _answer(self, approval: str, seen: str, shown: str, approve: bool, asked: list[str]) -> None:
        asked.append(shown)
        verb = "approvals.approve" if approve else "approvals.reject"
        reason = "" if approve else "nobody approves this here"
        with contextlib.suppress(Refused):  # it was withdrawn meanwhile
            ask_control(self._run, verb, approval=approval, seen=seen, reason=reason)
