"""What a changed command would get, told while it is typed: by control's own policy and catalogue, and without any effect.

It says what the worker will say when the text is sent, as far as control can know: the worker judges again, knowing its
session. Reading a text takes the one lock that Python has, so texts are bounded and read one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from appliance.approvals.desk import Case, Person, Refusal, answering_groups
from appliance.control.catalogues import Catalogues
from appliance.decisions import Forward, Hold, Refuse, Verdict
from appliance.effects import Effect
from appliance.errors import AmendmentError, PeerError
from appliance.ipc.messages import Shown
from appliance.policy.cases import SESSION_USED
from appliance.policy.explanation import masked_names
from appliance.policy.granting import granted
from appliance.policy.rules import Policy
from appliance.protocols.postgres.amendments import changed_shape, check_amendment
from appliance.protocols.redis.amendments import amended_words
from appliance.protocols.redis.commands import effects_of
from appliance.protocols.redis.requests import split_words
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import SessionView

CHARACTERS_MAX = 1 << 16
"""Some tens of milliseconds of reading. Longer texts are judged when they are sent."""

WAITING_MAX = 16

_PRIVATE = "; this session has tables or statements of its own, which only the worker knows: it judges again"


class Previewing:
    """Previews, one at a time, and one for each asker. `policy` is the one in force."""

    def __init__(self, policy: Callable[[], Policy], catalogues: Catalogues) -> None:
        self._policy = policy
        self._catalogues = catalogues
        self._thread = ThreadPoolExecutor(1, "previews")
        self._askers: set[str] = set()

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def preview(self, asker: str, case: Case, person: Person, text: str) -> dict[str, Any]:
        """What `text` would get in place of the held command, were it sent by that person, who may answer the case. Raises
        Refusal, and UnavailableError where the catalogue can't be read."""
        if len(text) > CHARACTERS_MAX:
            raise Refusal(f"a text of more than {CHARACTERS_MAX} characters is judged when it is sent, not before")
        if asker in self._askers or len(self._askers) >= WAITING_MAX:
            raise Refusal("the text before this one is still being judged; try again")
        self._askers.add(asker)
        try:
            request = case.request
            catalogue = None
            if request.scope.protocol == "postgres":
                catalogue = (await self._catalogues.current(request.scope.resource, request.scope.database or "")).catalogue
            groups = answering_groups(case, person)
            policy = self._policy()
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: _preview(policy, request, groups, text, catalogue)
            )
        finally:
            self._askers.discard(asker)


def _preview(
    policy: Policy, request: Shown, groups: frozenset[str], text: str, catalogue: Catalogue | None
) -> dict[str, Any]:
    why = ""
    if not request.may_amend:
        why = "this command can't be changed, only approved or rejected"
    elif not text.strip():
        why = "the changed command is empty"
    elif text == request.exact:
        why = "the text is unchanged; approve it as it is, or reject it"
    effects, flaw = _effects(request, text, catalogue)
    verdict = policy.decide(request.principal, request.scope, effects) if effects else None
    may = flaw or (granted(verdict, groups) if verdict is not None else "it cannot be said what this does")
    if not why and isinstance(may, str):
        why = may + (_PRIVATE if request.is_private else "")
    return _answer(why, effects, verdict)


def _effects(request: Shown, text: str, catalogue: Catalogue | None) -> tuple[frozenset[Effect], str]:
    """What the text would do, none where that cannot be told; and why it cannot stand in for the held one, if so."""
    nothing: frozenset[Effect] = frozenset()
    match request.scope.protocol:
        case "postgres" if catalogue is not None:
            if "\0" in text:
                return nothing, "a text with a NUL"
            view = SessionView(catalogue.search_path if request.search_path is None else request.search_path)
            old, new = read(request.exact, catalogue, view), read(text, catalogue, view)
            effects = new.effects or frozenset({SESSION_USED})
            # What only the session knows may make the held text unreadable here; its worker could read it.
            if old.problem is not None:
                return effects, f"the changed text cannot be read: {new.problem.message}" if new.problem is not None else ""
            try:
                check_amendment(old, new)
            except AmendmentError as error:
                return effects, str(error)
            return effects, (changed_shape(old, new) or "") if request.sort == "Bind" else ""
        case "redis":
            try:
                words = amended_words(split_words(request.exact.encode()), text)
            except AmendmentError as error:
                return nothing, str(error)
            except (PeerError, UnicodeEncodeError):
                return nothing, "the held command cannot be read here; its worker judges the changed one"
            return effects_of(words), ""
        case _:
            return nothing, "only the worker can judge this; it does when the text is sent"


def _answer(why: str, effects: frozenset[Effect], verdict: Verdict | None) -> dict[str, Any]:
    outcome = "deny"
    if isinstance(verdict, Hold):
        outcome = "hold"
    elif isinstance(verdict, Forward):
        outcome = "forward"
    return {
        "outcome": outcome,
        "may_run": not why,
        "why": why,
        "rule": str(verdict.rule) if verdict is not None and verdict.rule else None,
        "reason": verdict.reason if verdict is not None else why,
        "advice": verdict.advice if isinstance(verdict, Refuse) else "",
        "effects": sorted(str(effect) for effect in effects),
        "masks": sorted(masked_names(verdict)) if verdict is not None else [],
    }
