"""When what a held command would do is worked out, and how much of that a target has to bear.

Each command that comes onto the desk is looked into once, beside the desk's own work: the hold shows at once, the figures
when they are there. An agent can put many commands on the desk, so what that costs the target is bounded: so many
connections for each resource, so many commands an agent within a time, and equal statements share one answer. A command that
is settled meanwhile is not looked into any more.

docs/decisions/0008-blast-radius.md says what may be asked of a target in advance, sql/foresight.py how that is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psycopg

from appliance.approvals.desk import Case, Figure, State
from appliance.control.catalogues import Catalogues
from appliance.control.connections import connect
from appliance.control.figures import figures_of, not_worked_out
from appliance.control.log import Level, log
from appliance.control.probing import DEADLINE_SECONDS, Prober
from appliance.credentials.vault import Vault
from appliance.errors import RecordingError, SluicegateError
from appliance.ipc.messages import Shown
from appliance.settings import Settings
from appliance.sql.catalogue import Catalogue
from appliance.sql.foresight import TEXT_LENGTH_MAX, Foreseer, Foresight
from appliance.sql.reading import SessionView

APPLICATION_NAME = "sluicegate blast radius"
AT_ONCE_MAX = 4
"""Connections to one resource at a time."""

WAITING_MAX = 40
"""Commands that wait for one of them, for each resource."""

BURST_MAX = 20
SECONDS_EACH = 3.0
"""An agent may have so many commands looked into at once, and one more each so many seconds."""

BUDGETS_MAX = 1000

SHARED_SECONDS = 5.0
"""How old an answer may be that an equal statement is given."""

KEPT_MAX = 200
FORESEERS_MAX = 16
"""Each keeps a whole catalogue alive."""

WORK_SECONDS = DEADLINE_SECONDS + 12.0
"""From a free connection to the last figure: connecting and reading the catalogue on top of the questions' own time."""


def is_looked_into(request: Shown) -> bool:
    """Whether figures of such a command are worked out at all; of the others nothing is said."""
    return request.scope.protocol == "postgres" and request.search_path is not None


@dataclass(frozen=True, slots=True)
class Statement:
    """A text, and all that its meaning depends on. `arguments`, `search_path` and `is_private` are those of ipc's Shown."""

    resource: str
    database: str
    text: str
    arguments: tuple[tuple[str, str | None], ...]
    search_path: tuple[str, ...] | None
    is_private: bool
    in_transaction: bool

    @staticmethod
    def held(request: Shown, text: str | None = None) -> Statement:
        """A held one, or `text` in its place."""
        return Statement(
            request.scope.resource,
            request.scope.database or "",
            request.exact if text is None else text,
            request.arguments,
            request.search_path,
            request.is_private,
            request.in_transaction,
        )


@dataclass(slots=True, eq=False)
class _Work:
    """One statement that is being looked into, or was a moment ago."""

    task: asyncio.Task[tuple[Figure, ...]]
    wanted: int = 0
    done: float | None = None


@dataclass(slots=True, eq=False)
class _Budget:
    """What an agent has left."""

    left: float
    since: float


@dataclass(slots=True, eq=False)
class _Place:
    """A resource: whose turn it is, and how many wait for theirs."""

    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE_MAX))
    waiting: int = 0


class BlastRadius:
    """Works out what held commands would do. `show` puts the figures of an approval on the desk; `clock` gives seconds that
    only go forward."""

    def __init__(
        self,
        settings: Settings,
        vault: Vault,
        catalogues: Catalogues,
        show: Callable[[str, tuple[Figure, ...]], None],
        clock: Callable[[], float],
    ) -> None:
        self._resources = {resource.name: resource for resource in settings.resources}
        self._vault = vault
        self._catalogues = catalogues
        self._show = show
        self._clock = clock
        self._places = {name: _Place() for name in self._resources}
        self._works: dict[Statement, _Work] = {}
        self._budgets: dict[str, _Budget] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._foreseers: dict[tuple[str, str], tuple[str, Foreseer]] = {}
        # Reading keeps what it found out in the foreseer: one text at a time, each to its end whoever still waits.
        self._reader = ThreadPoolExecutor(1, "foresight")

    def heed(self, case: Case) -> None:
        """Something happened on the desk: look into what is new, let go of what is settled."""
        asking = self._asking.get(case.id)
        if case.state is State.SETTLED:
            if asking is not None:
                asking.cancel()
            return
        request = case.request
        if asking is not None or case.blast is not None or case.owner is None or not is_looked_into(request):
            return
        task = asyncio.get_running_loop().create_task(self._ask(case.id, request))
        self._asking[case.id] = task
        task.add_done_callback(lambda done: self._asked(case.id, done))

    async def of(self, statement: Statement, agent: str) -> tuple[Figure, ...]:
        """The figures of a statement, on the account of that agent's budget. Never raises but CancelledError."""
        work = self._works.get(statement)
        if work is None or work.task.cancelling() or (work.done is not None and self._clock() - work.done > SHARED_SECONDS):
            why = self._is_too_much(statement, agent)
            if why:
                return not_worked_out(why)
            work = self._begin(statement)
        work.wanted += 1
        try:
            # Shielded: others may want it still when this one goes.
            return await asyncio.shield(work.task)
        finally:
            work.wanted -= 1
            if not work.wanted and not work.task.done():
                work.task.cancel()

    async def close(self) -> None:
        """End all that is under way."""
        tasks: list[asyncio.Task[None] | asyncio.Task[tuple[Figure, ...]]] = [
            *self._asking.values(),
            *(work.task for work in self._works.values()),
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, approval: str, request: Shown) -> None:
        self._tell(approval, await self.of(Statement.held(request), request.principal.agent))

    def _asked(self, approval: str, task: asyncio.Task[None]) -> None:
        self._asking.pop(approval, None)
        if not task.cancelled() and (fault := task.exception()) is not None:
            # Our own mistake; the hold stands without figures, as it does where the target can't be reached.
            asyncio.get_running_loop().call_exception_handler({"message": "a blast radius failed", "exception": fault})
            self._tell(approval, not_worked_out("that failed by a fault of the appliance's own"))

    def _tell(self, approval: str, figures: tuple[Figure, ...]) -> None:
        try:
            self._show(approval, figures)
        except RecordingError as error:
            log("ledger fails", level=Level.ERROR, reason=error)

    # How much is too much.

    def _is_too_much(self, statement: Statement, agent: str) -> str:
        place = self._places.get(statement.resource)
        if place is None:
            return "there is no such resource"
        if len(statement.text) > TEXT_LENGTH_MAX:
            return f"the statement is longer than {TEXT_LENGTH_MAX:,} characters"
        if statement.is_private:
            return "the session has made or changed tables that nobody else sees yet, so names may mean something else here"
        if statement.search_path is None:
            return "it is not known where the session looks up names"
        if place.waiting >= WAITING_MAX:
            return f"{WAITING_MAX} held commands wait to be looked into already"
        now = self._clock()
        if agent not in self._budgets and len(self._budgets) >= BUDGETS_MAX:
            # Names come from workers. Those whose budget is whole again are as good as new.
            whole = now - BURST_MAX * SECONDS_EACH
            self._budgets = {name: one for name, one in self._budgets.items() if one.since > whole}
            if len(self._budgets) >= BUDGETS_MAX:
                return "too many agents have had held commands looked into within a short time"
        budget = self._budgets.setdefault(agent, _Budget(BURST_MAX, now))
        budget.left = min(BURST_MAX, budget.left + (now - budget.since) / SECONDS_EACH)
        budget.since = now
        if budget.left < 1:
            return f"{agent} has had too many held commands looked into within a short time"
        budget.left -= 1
        return ""

    def _begin(self, statement: Statement) -> _Work:
        now = self._clock()
        for key, old in list(self._works.items()):
            if old.done is not None and now - old.done > SHARED_SECONDS:
                del self._works[key]
        work = _Work(asyncio.get_running_loop().create_task(self._work_out(statement)))
        if len(self._works) < KEPT_MAX:
            self._works[statement] = work
        work.task.add_done_callback(lambda _: self._ended(statement, work))
        return work

    def _ended(self, statement: Statement, work: _Work) -> None:
        work.done = self._clock()
        failed = work.task.cancelled() or work.task.exception() is not None
        if failed and self._works.get(statement) is work:
            del self._works[statement]

    # The work.

    async def _work_out(self, statement: Statement) -> tuple[Figure, ...]:
        place = self._places[statement.resource]
        place.waiting += 1
        try:
            await place.turns.acquire()
        finally:
            place.waiting -= 1
        try:
            async with asyncio.timeout(WORK_SECONDS):
                return await self._look(statement)
        except TimeoutError:
            return not_worked_out(f"it took more than {WORK_SECONDS:g} s")
        except (psycopg.Error, OSError, SluicegateError) as error:
            # What a target says may carry values; what we say ourselves does not.
            reason = str(error) if isinstance(error, SluicegateError) else type(error).__name__
            log("blast radius not worked out", level=Level.WARNING, resource=statement.resource, reason=reason)
            return not_worked_out("the target can't be asked")
        finally:
            place.turns.release()

    async def _look(self, statement: Statement) -> tuple[Figure, ...]:
        assert statement.search_path is not None
        resource = self._resources[statement.resource]
        catalogue = (await self._catalogues.current(statement.resource, statement.database)).catalogue
        foresights = await asyncio.get_running_loop().run_in_executor(
            self._reader, self._foresee, (statement.resource, statement.database), catalogue, statement
        )
        if isinstance(foresights, str):
            return not_worked_out(foresights)
        connection = await connect(resource, statement.database, self._vault, APPLICATION_NAME)
        try:
            prober = Prober(connection, statement.search_path, statement.arguments, catalogue.version, self._clock)
            findings = await prober.find(foresights)
        finally:
            await connection.close()
        return figures_of(findings, in_transaction=statement.in_transaction, role=catalogue.role)

    def _foresee(self, key: tuple[str, str], catalogue: Catalogue, statement: Statement) -> tuple[Foresight, ...] | str:
        """In the reader's thread, which alone touches `_foreseers`."""
        version, foreseer = self._foreseers.get(key, ("", None))
        if foreseer is None or version != catalogue.version:
            if len(self._foreseers) >= FORESEERS_MAX:
                self._foreseers.clear()
            foreseer = Foreseer(catalogue)
            self._foreseers[key] = (catalogue.version, foreseer)
        return foreseer.foresee(statement.text, SessionView(statement.search_path or ()))
