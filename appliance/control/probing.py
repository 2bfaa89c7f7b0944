"""What control asks a target about a held statement, each question in a transaction of its own that is read only, bounded in
time, waits for no lock, and is always rolled back.

Questions go by the extended protocol, which takes one statement and no more. What the target says in an error is not kept,
because it may carry values: only its SQLSTATE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import psycopg
from psycopg import generators
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus

from appliance.control.connections import Connection
from appliance.protocols.postgres.parameters import TYPE_NAMES
from appliance.protocols.postgres.startup import write_search_path
from appliance.sql.catalogue_queries import VERSION_QUERY
from appliance.sql.foresight import Foresight, Probe

STATEMENT_SECONDS = 2.0
LOCK_SECONDS = 0.5
"""Of one question. While one waits for a lock, others may have to wait behind it: not longer than anybody notices."""

DEADLINE_SECONDS = 8.0
"""Of all questions about one held command; those that are left are not asked."""

DEPENDENTS_MAX = 20
_DEPENDENT_LEVELS_MAX = 6

CUT = "cut"
"""In place of an SQLSTATE: there was no time left."""

EXPRESSED = "expressed"
"""In place of an SQLSTATE: planning it would evaluate an expression of the table's statistics."""

UNREADABLE = "unreadable"
"""In place of an SQLSTATE: a parameter came in a binary form that is not read here."""

CHANGED = "changed"
"""In place of an SQLSTATE: what exists at the target is no longer what the question was judged by."""

_TYPES = {name: oid for oid, name in TYPE_NAMES.items()}

# Everything that decides how a text is read, or what it may cost, whatever the account's own defaults are.
_BEGIN = (
    "begin transaction isolation level repeatable read, read only; "
    f"set local statement_timeout = {round(STATEMENT_SECONDS * 1000)}; "
    f"set local lock_timeout = {round(LOCK_SECONDS * 1000)}; "
    "set local idle_in_transaction_session_timeout = 10000; set local standard_conforming_strings = on; "
    "set local transform_null_equals = off; set local max_parallel_workers_per_gather = 0; set local jit = off; "
    "set local search_path = ''"
)

_SIZES = """select json_build_array(c.oid::bigint, greatest(c.reltuples, -1)::float8, c.relrowsecurity,
  case c.relkind when 'p' then (select coalesce(sum(pg_total_relation_size(relid)), 0) from pg_partition_tree(c.oid))
    else pg_total_relation_size(c.oid) end,
  case c.relkind when 'p' then (select sum(greatest(p.reltuples, 0))::float8
    from pg_partition_tree(c.oid) t join pg_class p on p.oid = t.relid where t.isleaf) end)::text
from unnest($1::oid[]) as wanted(oid) join pg_class c on c.oid = wanted.oid limit 100"""

# The same without opening the table, for one that is locked: what VACUUM last saw.
_PAGES = """select json_build_array(c.oid::bigint, greatest(c.reltuples, -1)::float8, c.relrowsecurity, null, null)::text
from unnest($1::oid[]) as wanted(oid) join pg_class c on c.oid = wanted.oid limit 100"""

# Tables whose extended statistics are over expressions, which the planner evaluates: they are no part of our catalogue.
_EXPRESSED = """select json_build_array(n.nspname, c.relname)::text from pg_statistic_ext s
join pg_class c on c.oid = s.stxrelid join pg_namespace n on n.oid = c.relnamespace
where to_jsonb(s) ->> 'stxexprs' is not null limit 1000"""

# What a DROP has to take along: what depends on the tables normally (n), on the way over what belongs to them anyway (a, i).
# A view depends by its rule, so from there on it is the view.
_DEPENDENTS = f"""with recursive reached(classid, objid, level, sort) as (
  select 'pg_class'::regclass::oid, wanted.oid, 0, 'i'::"char" from unnest($1::oid[]) as wanted(oid)
  union
  select case when w.oid is null then d.classid else 'pg_class'::regclass::oid end, coalesce(w.ev_class, d.objid),
    r.level + case d.deptype when 'n' then 1 else 0 end, d.deptype
  from reached r join pg_depend d on d.refclassid = r.classid and d.refobjid = r.objid and d.deptype in ('n', 'a', 'i')
  left join pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
  where r.level < {_DEPENDENT_LEVELS_MAX})
select json_build_array(pg_describe_object(classid, objid, 0))::text from (
  select classid, objid from reached where sort = 'n' and level > 0
    and not (classid = 'pg_class'::regclass and objid = any ($1::oid[]))
  group by 1, 2 order by min(level), 1, 2 limit {DEPENDENTS_MAX + 1}) found"""


@dataclass(frozen=True, slots=True)
class Size:
    """A table: the rows that the target believes it has (None: it never counted), its bytes with indexes (None: it could not
    be looked at), and whether row security applies."""

    rows: float | None
    size: int | None
    row_security: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What the planner expects: rows, its own unit of cost, and the names of the relations it would visit."""

    rows: float
    cost: float
    relations: frozenset[str]


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a question: its answer, or the SQLSTATE (or one of the words above) of why there is none."""

    count: int | None = None
    plan: Plan | None = None
    failure: str = ""


@dataclass(slots=True)
class Findings:
    """All answers about one held command: counts by statement and part, plans and dependents by statement, sizes by OID."""

    foresights: tuple[Foresight, ...]
    counts: dict[tuple[int, int], Answered] = field(default_factory=dict)
    plans: dict[int, Answered] = field(default_factory=dict)
    dependents: dict[int, tuple[str, ...]] = field(default_factory=dict)
    sizes: dict[int, Size] = field(default_factory=dict)


class _RefusedError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


_Node = dict[str, object]


class Prober:
    """Asks on one connection. `arguments` are the statement's parameters, each the name of its type and its text; `version`
    is that of the catalogue by which questions were judged; `clock` gives seconds that only go forward."""

    def __init__(
        self,
        connection: Connection,
        search_path: tuple[str, ...],
        arguments: Sequence[tuple[str, str | None]],
        version: str,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._search_path = write_search_path(search_path) or "''"
        self._arguments = arguments
        self._version = version
        self._clock = clock
        self._until = clock() + DEADLINE_SECONDS
        self._expressed: frozenset[tuple[str, ...]] | None = None

    async def find(self, foresights: tuple[Foresight, ...]) -> Findings:
        """Ask everything, what matters most first. Raises psycopg.Error where the connection breaks."""
        findings = Findings(foresights)
        try:
            rows = await self._own(_EXPRESSED)
            self._expressed = frozenset(tuple(msgspec.json.decode(row, type=list[str])) for row in rows)
        except _RefusedError:
            self._expressed = None  # then nothing is planned or counted
        for number, one in enumerate(foresights):
            if one.plan is not None:
                findings.plans[number] = await self._planned(one.plan)
        for number, one in enumerate(foresights):
            for place, part in enumerate(one.parts):
                if part.probe is not None and not part.level:
                    findings.counts[number, place] = await self._counted(part.probe)
        await self._find_sizes(findings)
        for number, one in enumerate(foresights):
            if one.dropped:
                findings.dependents[number] = await self._dependents(one.dropped)
        for number, one in enumerate(foresights):
            for place, part in enumerate(one.parts):
                if part.probe is not None and part.level:
                    findings.counts[number, place] = await self._counted(part.probe)
        return findings

    async def _counted(self, probe: Probe) -> Answered:
        try:
            rows = await self._probed(probe)
            return Answered(count=int(rows[0]))
        except _RefusedError as refused:
            return Answered(failure=refused.sqlstate)

    async def _planned(self, probe: Probe) -> Answered:
        try:
            rows = await self._probed(probe)
            plan = msgspec.json.decode("\n".join(row.decode() for row in rows), type=list[dict[str, _Node]])[0]["Plan"]
        except _RefusedError as refused:
            return Answered(failure=refused.sqlstate)
        return Answered(plan=_read_plan(plan))

    async def _find_sizes(self, findings: Findings) -> None:
        wanted = sorted(
            {
                part.relation.oid
                for one in findings.foresights
                for part in one.parts
                if part.relation is not None and not part.level
            }
        )
        if not wanted:
            return
        try:
            rows = await self._own(_SIZES, wanted)
        except _RefusedError:
            try:
                rows = await self._own(_PAGES, wanted)
            except _RefusedError:
                return
        for row in rows:
            oid, tuples, row_security, size, below = msgspec.json.decode(
                row, type=tuple[int, float, bool, int | None, float | None]
            )
            found = below if below is not None else tuples
            findings.sizes[oid] = Size(None if found < 0 else found, size, row_security)

    async def _dependents(self, oids: tuple[int, ...]) -> tuple[str, ...]:
        try:
            rows = await self._own(_DEPENDENTS, oids)
        except _RefusedError:
            return ()
        return tuple(msgspec.json.decode(row, type=list[str])[0] for row in rows)

    async def _probed(self, probe: Probe) -> list[bytes]:
        if self._expressed is None or probe.tables & self._expressed:
            raise _RefusedError(EXPRESSED)
        numbers = probe.parameters
        if any(number > len(self._arguments) for number in numbers):
            raise _RefusedError("08P01")  # as the target says to a Bind that gives too few
        given = [self._arguments[number - 1] for number in numbers]
        if any(value is not None and "\0" in value for _, value in given):
            raise _RefusedError("22021")
        # A binary value that we could not read: its bytes as hex, which is what a bytea is written as and nothing else.
        if any(value is not None and name != "bytea" and value.startswith("\\x") for name, value in given):
            raise _RefusedError(UNREADABLE)
        types = [_TYPES.get(name, int(name) if name.isdecimal() else 0) for name, _ in given]
        # Judged by one reading of the catalogue, so asked only while that stands: in the same breath.
        begin = f"{_BEGIN}; {VERSION_QUERY}; set local search_path = {self._search_path}"
        return await self._asked(begin, probe.text, [value for _, value in given], types)

    async def _own(self, text: str, oids: Sequence[int] = ()) -> list[bytes]:
        values = ["{" + ",".join(str(oid) for oid in oids) + "}"] if oids else []
        return await self._asked(_BEGIN, text, values, [0] * len(values))

    async def _asked(self, begin: str, text: str, values: Sequence[str | None], types: Sequence[int]) -> list[bytes]:
        """The first column of the rows."""
        if self._clock() > self._until:
            raise _RefusedError(CUT)
        link = self._connection.pgconn
        async with self._connection.lock:
            try:
                link.send_query(begin.encode())
                for result in await self._connection.wait(generators.execute(link)):
                    _check(result)
                    if result.ntuples and result.get_value(0, 0) != self._version.encode():
                        raise _RefusedError(CHANGED)
                encoded = [None if value is None else value.encode() for value in values]
                link.send_query_params(text.encode(), encoded, param_types=list(types))
                (result,) = await self._connection.wait(generators.execute(link))
                _check(result)
                return [result.get_value(row, 0) or b"" for row in range(result.ntuples)]
            finally:
                # After a cancellation, too, unless that has left nothing to roll back on.
                if link.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                    link.send_query(b"rollback")
                    await self._connection.wait(generators.execute(link))


def _check(result: psycopg.pq.abc.PGresult) -> None:
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        sqlstate = result.error_field(DiagnosticField.SQLSTATE)
        raise _RefusedError(sqlstate.decode() if sqlstate else "XX000")


_PLAN_NODES_MAX = 10_000


def _read_plan(plan: _Node) -> Plan:
    """Names and numbers of a plan; its conditions, which carry values, are left where they are."""
    relations: set[str] = set()
    waiting = [plan]
    for _ in range(_PLAN_NODES_MAX):
        if not waiting:
            break
        node = waiting.pop()
        name = node.get("Relation Name")
        if isinstance(name, str):
            relations.add(name)
        below = node.get("Plans")
        if isinstance(below, list):
            waiting.extend(each for each in below if isinstance(each, dict))
    # What writes gives no rows itself (without RETURNING): those that come in are the ones it writes.
    top = plan
    below = plan.get("Plans")
    if plan.get("Node Type") == "ModifyTable" and isinstance(below, list):
        coming = [each for each in below if isinstance(each, dict) and each.get("Parent Relationship") == "Outer"]
        top = coming[0] if coming else plan
    return Plan(_number(top.get("Plan Rows")), _number(plan.get("Total Cost")), frozenset(relations))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
