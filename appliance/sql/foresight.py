"""What can be worked out about a statement before it runs: texts that only count and plan, and whether they may be run.

A text made here runs before anybody has said yes, so it has to be innocent by itself: a read-only transaction stops no
function from reaching outside, and planning alone runs what is declared immutable. Each text is therefore read again like a
client's own, by a stricter reader (`_Rehearsal`), and is given out only if all that it does is to read tables and to call
functions of the system, or bodies in SQL that do no more. Texts are written from the tree of the server's grammar, parsed
again and compared with that tree, so that nothing in the client's text (comments, quotes, semicolons) is carried over.

Rows that a writing statement hits are counted as `SELECT … FROM its target WHERE its condition`; what stands beside the
target (USING, FROM) goes below an EXISTS, because each row of the target is written once however often it is matched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pglast import parse_sql
from pglast.enums import BoolExprType, CmdType, DropBehavior, MergeMatchKind, ObjectType, OnConflictAction
from pglast.error import Error as GrammarError
from pglast.stream import RawStream

from appliance.effects import Action, Effect, Kind
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue, ForeignKey, Relation
from appliance.sql.commands import Commands
from appliance.sql.names import State, TroubleError, kin, types_by_oid
from appliance.sql.reading import Deallocate, DeclareCursor, Prepare, SessionView, Statement, Transaction
from appliance.sql.scopes import Column, Scope
from appliance.sql.touched import table
from appliance.sql.tree import ast, children, strings

TEXT_LENGTH_MAX = 32_768
"""Characters. A longer text is not looked into: reading it some ten times over would keep everything else waiting."""

ROWS_MAX = 100_000
"""How far rows are counted."""

DEPTH_COUNTED_MAX = 2
"""Levels of foreign keys whose rows are counted; each costs a join more."""

DEPTH_MAX = 5
KEYS_MAX = 40
"""Levels and numbers of foreign keys that are named at all."""

PARTS_MAX = 12
"""Writing statements within one statement (in WITH), and tables of one TRUNCATE or DROP, that are looked into."""

_NODES_MAX = 20_000

# Characters of all texts that are made for one held command: 1 s or so of printing, parsing and reading.
_WRITTEN_MAX = 60_000

# Of the functions that a client may call with anything, those that hold things up, lock, or take memory as their arguments
# say, and those that change what only their arguments tell. What runs before anybody said yes may use none of them.
_NOT_IN_ADVANCE = frozenset(
    {
        "array_fill",
        "currval",
        "format",
        "lastval",
        "lpad",
        "nextval",
        "pg_current_xact_id",
        "pg_get_publication_tables",
        "pg_notification_queue_usage",
        "pg_notify",
        "pg_sequence_last_value",
        "repeat",
        "rpad",
        "set_config",
        "setseed",
        "setval",
        "txid_current",
    }
)
_NOT_IN_ADVANCE_BEGINNINGS = ("pg_sleep", "pg_advisory_", "pg_try_advisory_")
_NOT_IN_ADVANCE_EXTENSIONS = frozenset({"pgcrypto"})  # slow on purpose, as its arguments say

_USERS_OIDS = 16_384  # FirstNormalObjectId

_SHAPES = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
_ON_WHOLE_TABLES = (
    ast.AlterTableStmt,
    ast.ClusterStmt,
    ast.IndexStmt,
    ast.LockStmt,
    ast.RefreshMatViewStmt,
    ast.VacuumStmt,
)
_WRITING = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)

_DROPPED = {
    ObjectType.OBJECT_TABLE: "dropped",
    ObjectType.OBJECT_VIEW: "dropped",
    ObjectType.OBJECT_MATVIEW: "dropped",
    ObjectType.OBJECT_FOREIGN_TABLE: "dropped",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """A text that only reads. Its $1, $2 … are the statement's parameters of those numbers. `tables` are the schemas and
    names of all that it reads or plans to write, beneath views and in partitions too."""

    text: str
    parameters: tuple[int, ...] = ()
    tables: frozenset[tuple[str, ...]] = frozenset()


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one relation, and what becomes of them ("deleted", "updated", "removed", "refer" …). `probe` counts them up
    to ROWS_MAX + 1; where it is None `reason` says why, or `rows` is their number as the text itself tells it. `is_bound`:
    there may be fewer. `key` is the foreign key over which the statement reaches them, `level` how many are on the way.
    `below` are the names of its partitions and of what inherits from it."""

    what: str
    relation: Relation | None
    probe: Probe | None = None
    reason: str = ""
    rows: int | None = None
    is_everything: bool = False
    is_bound: bool = False
    key: ForeignKey | None = None
    level: int = 0
    below: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fired:
    """A user's trigger that runs: its relation, its name, and the function's name."""

    relation: Relation
    trigger: str
    function: str


@dataclass(frozen=True, slots=True)
class Foresight:
    """What can be worked out about one statement. `sort` is the node's name. `plan` is an EXPLAIN that answers JSON; None
    with a reason, or without one where the statement has no plan. `cascades`: DROP or TRUNCATE with CASCADE. `dropped` are
    the OIDs of relations whose dependents matter. `is_cut`: there was more than is looked into."""

    sort: str
    parts: tuple[Part, ...] = ()
    plan: Probe | None = None
    plan_reason: str = ""
    fired: tuple[Fired, ...] = ()
    cascades: bool = False
    dropped: tuple[int, ...] = ()
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class _Matched:
    """The rows of `relation` (a RangeVar) that a statement hits: `where` holds, and `beside` has a row for it. `tables` are
    the queries of WITH that both may name."""

    relation: Any
    where: Any = None
    beside: Any = None
    tables: Any = None


class Foreseer:
    """Works out what can be known in one reading of a catalogue. One text at a time."""

    def __init__(self, catalogue: Catalogue) -> None:
        # Readers keep in a catalogue what they worked out from it, and the two kinds of readers see different things.
        self._plain, self._strict = replace(catalogue), replace(catalogue)

    def foresee(self, text: str, session: SessionView) -> tuple[Foresight, ...] | str:
        """What can be worked out about each statement of a text, or why nothing can. Never raises; takes some 100 ms at
        TEXT_LENGTH_MAX."""
        if len(text) > TEXT_LENGTH_MAX:
            return f"it is longer than {TEXT_LENGTH_MAX} characters"
        reading = read(text, self._plain, session)
        if reading.problem is not None:
            return "it cannot be read as the target would"
        if len(reading.statements) > PARTS_MAX:
            return f"it has more than {PARTS_MAX} statements"
        if any(_changes_names(statement) for statement in reading.statements[:-1]):
            return "an earlier statement in it changes what names mean in a later one"
        found: list[Foresight] = []
        statements = _Statements(self._strict, session)
        for statement in reading.statements:
            try:
                parsed = parse_sql(statement.text)
                if len(parsed) != 1 or type(parsed[0].stmt).__name__ != statement.sort:
                    return "its statements could not be told apart"
                found.append(statements.foresee(parsed[0].stmt, statement.text))
            except (GrammarError, ValueError, RecursionError, TroubleError):
                return "it could not be taken apart"
        return tuple(found)


class _Rehearsal(Commands):
    """Reads what is to run in advance: stricter about what it calls, and looking at what planning evaluates and at nothing
    that only writing sets off."""

    def call(self, node: Any, scope: Scope) -> bool:
        names = strings(node.funcname)
        if len(names) == 1 or names[-2] == "pg_catalog":
            self._object_to(names[-1])
        return super().call(node, scope)

    def called(self, node: Any, schema: str | None, name: str, *, plain: bool) -> bool:
        if schema in (None, "pg_catalog"):
            self._object_to(name)
        return super().called(node, schema, name, plain=plain)

    def _maybe_calls(self, node: Any, name: str) -> None:
        self._object_to(name)
        super()._maybe_calls(node, name)

    def _object_to(self, name: str) -> None:
        if name in _NOT_IN_ADVANCE or name.startswith(_NOT_IN_ADVANCE_BEGINNINGS):
            self.unknown("this function is not run in advance", Kind.FUNCTION, "pg_catalog", name)

    def scanned(self, relation: Relation, *, descend: bool = True) -> list[Column]:
        columns = super().scanned(relation, descend=descend)
        self._evaluated((relation, *kin(self.catalogue, relation, descend=descend)))
        return columns

    def written(
        self,
        action: Action,
        relation: Relation,
        fields: frozenset[str],
        *,
        cascades: bool = False,  # noqa: ARG002 - what is set off is not planned with it
    ) -> None:
        family = (relation, *kin(self.catalogue, relation))
        self.touched.add(Effect(action, table(relation.schema, relation.name), fields))
        self._evaluated(family)
        for each in family:
            if each.rules:
                self.unknown("this relation has rewrite rules", Kind.TABLE, each.schema, each.name)
            for column in each.columns:
                if column.default is not None:
                    self.owned_expression(column.default, each)
        if relation.kind == "v":
            self._written_through(action, relation, fields)

    def _evaluated(self, family: Iterable[Relation]) -> None:
        # The planner folds the constants in the expressions of indexes, checks and policies of all it may touch, and looks
        # through statistics with the functions of the columns' types (a range type's difference, for one).
        for each in family:
            if each.kind == "f":
                self.unknown("its rows are in another server", Kind.TABLE, each.schema, each.name)
            for text in each.expressions:
                self.owned_expression(text, each)
            for column in each.columns:
                if column.type_oid >= _USERS_OIDS:
                    self.type_runs(column.type_oid)
                if column.generated and column.default is not None:
                    self.owned_expression(column.default, each)


class _Statements:
    """Takes statements apart in one state of a session."""

    def __init__(self, catalogue: Catalogue, session: SessionView) -> None:
        self._catalogue = catalogue
        self._session = session
        self._state = State(catalogue, session)
        self._is_cut = False
        self._written = 0

    def foresee(self, node: Any, text: str) -> Foresight:
        """What can be worked out about one statement; `text` is its own."""
        self._is_cut = False
        whole = node
        kind = type(node)
        sort = kind.__name__
        if kind is ast.ExplainStmt and any(option.defname == "analyze" for option in node.options or ()):
            node, kind = node.query, type(node.query)
        if kind in (ast.CreateTableAsStmt, ast.DeclareCursorStmt, ast.CopyStmt) and type(node.query) in _SHAPES:
            node, kind = node.query, type(node.query)
        if kind in _SHAPES:
            return self._query(node, sort, text if node is whole else None)
        if kind is ast.TruncateStmt:
            return self._truncate(node, sort)
        if kind is ast.DropStmt and node.removeType in _DROPPED:
            return self._drop(node, sort)
        if kind is ast.CopyStmt and node.relation is not None:
            if node.is_from:
                return Foresight(sort, (Part("inserted", self._relation(node.relation), reason="the rows are yet to come"),))
            return Foresight(sort, (self._whole("returned", node.relation),))
        if kind in (
            ast.AlterTableStmt,
            ast.IndexStmt,
            ast.LockStmt,
            ast.VacuumStmt,
            ast.RefreshMatViewStmt,
            ast.ClusterStmt,
        ):
            return Foresight(sort, self._bystanders(node), is_cut=self._is_cut)
        return Foresight(sort)

    # --- queries

    def _query(self, node: Any, sort: str, text: str | None) -> Foresight:
        plan, reason = self._planned(node, text)
        parts: list[Part] = []
        fired: dict[tuple[int, str], Fired] = {}
        clause = node.withClause
        common = tuple(clause.ctes) if clause is not None else ()
        inside = [cte.ctequery for cte in common if type(cte.ctequery) in _WRITING]
        writers = frozenset(cte.ctename for cte in common if type(cte.ctequery) in _WRITING)
        if len(inside) >= PARTS_MAX:
            self._is_cut = True
        for piece in (node, *inside[: PARTS_MAX - 1]):
            if piece is not node and piece.withClause is not None:
                parts.append(Part(_VERBS[type(piece)], self._relation(piece.relation), reason="it has a WITH of its own"))
                continue
            tables = _without(clause, writers)
            if _names_any(tables, writers) or _names_any(piece, writers, outside=clause):
                relation = self._relation(piece.relation) if type(piece) in _WRITING else None
                parts.append(
                    Part(_VERBS[type(piece)], relation, reason="it works on what another part of the statement writes")
                )
                continue
            parts.extend(self._piece(piece, tables, fired))
        return Foresight(sort, tuple(parts), plan, reason, tuple(fired.values()), is_cut=self._is_cut)

    def _piece(self, node: Any, tables: Any, fired: dict[tuple[int, str], Fired]) -> list[Part]:
        kind = type(node)
        if kind is ast.SelectStmt:
            return [self._selected(node, tables, "returned", None)]
        relation = self._relation(node.relation)
        if kind is ast.InsertStmt:
            self._fires(relation, "insert", fired)
            return [self._inserted(node, tables, relation)]
        if kind is ast.MergeStmt:
            return self._merged(node, tables, relation, fired)
        deletes = kind is ast.DeleteStmt
        self._fires(relation, "delete" if deletes else "update", fired)
        what = "deleted" if deletes else "updated"
        if type(node.whereClause) is ast.CurrentOfExpr:
            return [Part(what, relation, rows=1, is_bound=True)]
        matched = _Matched(node.relation, node.whereClause, node.usingClause if deletes else node.fromClause, tables)
        first = self._counted(
            Part(what, relation, is_everything=node.whereClause is None, below=self._names_below(relation)), matched
        )
        if relation is None:
            return [first]
        fields = None if deletes else frozenset(target.name for target in node.targetList)
        return [first, *self._referring(relation, matched, fields, fired)]

    def _selected(self, node: Any, tables: Any, what: str, relation: Relation | None) -> Part:
        part = Part(what, relation)
        if node.larg is None and not node.fromClause and not node.valuesLists and _is_flat(node):
            return replace(part, rows=1, is_bound=node.whereClause is not None)
        if node.valuesLists and node.limitCount is None and node.limitOffset is None:
            return replace(part, rows=len(node.valuesLists))
        inner = _copied(node)
        inner.intoClause, inner.lockingClause, inner.withClause = None, None, None
        select = _template("select 1 from (select 1) as counted")
        select.fromClause[0].subquery = inner
        return self._finished(part, select, tables)

    def _inserted(self, node: Any, tables: Any, relation: Relation | None) -> Part:
        conflicts = node.onConflictClause is not None
        source = node.selectStmt
        if source is None:
            return Part("inserted", relation, rows=1, is_bound=conflicts)
        if source.withClause is not None and tables is not None:
            return Part("inserted", relation, reason="it has a WITH of its own")
        part = self._selected(source, source.withClause if tables is None else tables, "inserted", relation)
        if conflicts and node.onConflictClause.action == OnConflictAction.ONCONFLICT_UPDATE:
            part = replace(part, what="inserted or updated")
        return replace(part, is_bound=part.is_bound or conflicts)

    def _merged(self, node: Any, tables: Any, relation: Relation | None, fired: dict[tuple[int, str], Fired]) -> list[Part]:
        kinds = {clause.matchKind for clause in node.mergeWhenClauses}
        commands = {clause.commandType for clause in node.mergeWhenClauses}
        for command, event in _EVENTS.items():
            if command in commands:
                self._fires(relation, event, fired)
        parts: list[Part] = []
        matched = _Matched(node.relation, node.joinCondition, (node.sourceRelation,), tables)
        if MergeMatchKind.MERGE_WHEN_MATCHED in kinds:
            parts.append(self._counted(Part("changed where matched", relation, is_bound=True), matched))
        if MergeMatchKind.MERGE_WHEN_NOT_MATCHED_BY_TARGET in kinds:
            source = _unmatched(node.sourceRelation, node.relation, node.joinCondition)
            parts.append(self._finished(Part("inserted where not matched", relation, is_bound=True), source, tables))
        if MergeMatchKind.MERGE_WHEN_NOT_MATCHED_BY_SOURCE in kinds:
            # What follows over foreign keys is not told apart from what the matched rows set off.
            self._is_cut = True
            rest = _unmatched(node.relation, node.sourceRelation, node.joinCondition)
            parts.append(self._finished(Part("changed where the source has none", relation, is_bound=True), rest, tables))
        if relation is not None and CmdType.CMD_DELETE in commands:
            parts += self._referring(relation, matched, None, fired)
        elif relation is not None and CmdType.CMD_UPDATE in commands:
            changed = [clause.targetList for clause in node.mergeWhenClauses if clause.commandType == CmdType.CMD_UPDATE]
            fields = frozenset(target.name for targets in changed for target in targets)
            parts += self._referring(relation, matched, fields, fired)
        return [replace(part, is_bound=True) for part in parts]

    def _planned(self, node: Any, text: str | None) -> tuple[Probe | None, str]:
        """EXPLAIN of a query: of its own text, since an older server may not take what the newest grammar prints; or of what
        stands inside another statement (`text` is None), written anew."""
        explain = _template("explain (format json) select 1")
        explain.query = node
        if text is None:
            return self._checked(explain, _PLANNED)
        text = "EXPLAIN (FORMAT JSON) " + text
        if _only(text) != explain:
            return None, "it could not be told apart"
        used = [each.number for each in _nodes(node) if type(each) is ast.ParamRef]
        return self._judged(node, text, tuple(range(1, max(used, default=0) + 1)), _PLANNED)

    # --- whole tables

    def _truncate(self, node: Any, sort: str) -> Foresight:
        cascades = node.behavior == DropBehavior.DROP_CASCADE
        fired: dict[tuple[int, str], Fired] = {}
        parts: list[Part] = []
        emptied: dict[int, Relation] = {}
        for each in node.relations[:PARTS_MAX]:
            part = self._whole("removed", each)
            parts.append(part)
            if part.relation is not None:
                for member in (part.relation, *kin(self._catalogue, part.relation)):
                    emptied[member.oid] = member
                self._fires(part.relation, "truncate", fired)
        self._is_cut |= len(node.relations) > PARTS_MAX
        waiting = [(oid, 1) for oid in emptied]
        while waiting:
            oid, level = waiting.pop(0)
            for key in self._keys_to(oid):
                child = self._catalogue.relation_by_oid.get(key.child)
                if child is None or child.oid in emptied:
                    continue
                if len(parts) >= KEYS_MAX or level > DEPTH_MAX:
                    self._is_cut = True
                    break
                if not cascades:
                    parts.append(Part("stand in the way", child, key=key, level=level))
                    continue
                emptied[child.oid] = child
                for member in kin(self._catalogue, child):
                    emptied[member.oid] = member
                parts.append(replace(self._whole("removed", _range(child)), key=key, level=level))
                self._fires(child, "truncate", fired)
                waiting.append((child.oid, level + 1))
        return Foresight(sort, tuple(parts), fired=tuple(fired.values()), cascades=cascades, is_cut=self._is_cut)

    def _drop(self, node: Any, sort: str) -> Foresight:
        parts: list[Part] = []
        for names in node.objects[:PARTS_MAX]:
            path = strings(names)
            if 1 <= len(path) <= 2:
                found = self._state.relation(path[-2] if len(path) > 1 else None, path[-1])
                if found is not None:
                    parts.append(self._whole("dropped", _range(found)))
        self._is_cut |= len(node.objects) > PARTS_MAX
        oids = tuple(part.relation.oid for part in parts if part.relation is not None)
        cascades = node.behavior == DropBehavior.DROP_CASCADE
        return Foresight(sort, tuple(parts), cascades=cascades, dropped=oids, is_cut=self._is_cut)

    def _whole(self, what: str, node: Any) -> Part:
        part = Part(what, self._relation(node), is_everything=True)
        return self._counted(part, _Matched(node))

    def _bystanders(self, node: Any) -> tuple[Part, ...]:
        found = {}
        for each in _nodes(node):
            if type(each) is ast.RangeVar:
                relation = self._relation(each)
                if relation is not None:
                    found[relation.oid] = Part("touched", relation)
        self._is_cut |= len(found) > PARTS_MAX
        return tuple(found.values())[:PARTS_MAX]

    # --- foreign keys and triggers

    def _keys_to(self, oid: int) -> list[ForeignKey]:
        return [key for key in self._catalogue.foreign_keys if key.parent == oid and not key.inherited]

    def _referring(
        self, relation: Relation, matched: _Matched, fields: frozenset[str] | None, fired: dict[tuple[int, str], Fired]
    ) -> list[Part]:
        """What foreign keys make of rows that refer to those rows. `fields` are the columns that are set; None: they are
        deleted."""
        parts: list[Part] = []
        seen: set[tuple[int, tuple[str, ...], int]] = set()
        # For each: a table whose rows are deleted or changed, what is changed of them, the SELECT of those rows and how
        # they are called in it; breadth first, so that what is near is told first.
        name = matched.relation.alias.aliasname if matched.relation.alias is not None else matched.relation.relname
        waiting: list[tuple[Relation, frozenset[str] | None, Any, str, int]] = [
            (relation, fields, _rows_of(matched), name, 1)
        ]
        while waiting:
            parent, changed, rows, called, level = waiting.pop(0)
            for each in (parent, *kin(self._catalogue, parent)):
                for key in self._keys_to(each.oid):
                    if changed is not None and key.parent_columns and not changed & set(key.parent_columns):
                        continue
                    child = self._catalogue.relation_by_oid.get(key.child)
                    identity = (key.child, key.child_columns, key.parent)
                    if child is None or identity in seen:
                        continue
                    if len(parts) >= KEYS_MAX or level > DEPTH_MAX:
                        self._is_cut = True
                        continue
                    seen.add(identity)
                    letter = key.on_delete if changed is None else key.on_update
                    what = _KEY_WORDS.get(letter, "refer")
                    if what == "deleted" and changed is not None:
                        what = "updated"
                    part = Part(what, child, key=key, level=level, is_bound=changed is not None)
                    alias = f"referring_{level}_{len(parts)}"
                    below = self._below(key, child, each, alias, rows, called) if rows is not None else None
                    if level > DEPTH_COUNTED_MAX:
                        parts.append(replace(part, reason=f"more than {DEPTH_COUNTED_MAX} keys away"))
                        below = None
                    elif below is None:
                        parts.append(replace(part, reason="the types of its key are not the system's own"))
                    else:
                        parts.append(self._finished(part, below, matched.tables))
                    if what == "refer":
                        continue
                    self._fires(child, "delete" if what == "deleted" else "update", fired)
                    set_too = None if what == "deleted" else frozenset(key.child_columns)
                    waiting.append((child, set_too, below, alias, level + 1))
        return parts

    def _below(self, key: ForeignKey, child: Relation, parent: Relation, alias: str, rows: Any, called: str) -> Any:
        """SELECT 1 of the rows of `child` that refer by that key to those of the SELECT `rows`."""
        if not key.parent_columns or len(key.parent_columns) != len(key.child_columns):
            return None
        if not (self._has_system_types(child, key.child_columns) and self._has_system_types(parent, key.parent_columns)):
            return None
        rows = _copied(rows)
        select = _template("select 1 from a as b where exists (select 1)")
        select.fromClause = (_range(child, alias),)
        pairs = []
        for mine, theirs in zip(key.child_columns, key.parent_columns, strict=True):
            pair = _template("select a.b operator(pg_catalog.=) c.d").targetList[0].val
            pair.lexpr.fields = (ast.String(sval=alias), ast.String(sval=mine))
            pair.rexpr.fields = (ast.String(sval=called), ast.String(sval=theirs))
            pairs.append(pair)
        rows.whereClause = _both(*pairs, rows.whereClause)
        select.whereClause.subselect = rows
        return select

    def _has_system_types(self, relation: Relation, names: tuple[str, ...]) -> bool:
        # The key compares with an operator of its own, which for these is the one that pg_catalog has.
        types = types_by_oid(self._catalogue)
        oids = [column.type_oid for column in relation.columns if column.name in names]
        return len(oids) == len(names) and all(
            0 < oid < _USERS_OIDS or (oid in types and types[oid].kind == "e") for oid in oids
        )

    def _fires(self, relation: Relation | None, event: str, fired: dict[tuple[int, str], Fired]) -> None:
        if relation is None:
            return
        for each in (relation, *kin(self._catalogue, relation)):
            for trigger in each.triggers:
                if event in trigger.events:
                    function = self._catalogue.function_by_oid.get(trigger.function)
                    name = f"{function.schema}.{function.name}" if function is not None else "a function"
                    # A partition's copy of its parent's trigger says nothing new.
                    known = any(one.trigger == trigger.name and one.function == name for one in fired.values())
                    if not known and len(fired) < KEYS_MAX:
                        fired[(each.oid, trigger.name)] = Fired(each, trigger.name, name)

    # --- making texts

    def _relation(self, node: Any) -> Relation | None:
        if node.catalogname is not None and node.catalogname != self._catalogue.database:
            return None
        return self._state.relation(node.schemaname, node.relname)

    def _names_below(self, relation: Relation | None) -> frozenset[str]:
        if relation is None:
            return frozenset()
        above = kin(self._catalogue, relation, descend=False)
        return frozenset(each.name for each in kin(self._catalogue, relation) if each not in above)

    def _counted(self, part: Part, matched: _Matched) -> Part:
        return self._finished(part, _rows_of(matched), matched.tables)

    def _finished(self, part: Part, rows: Any, tables: Any) -> Part:
        """The part with a probe that counts the rows of that SELECT, or with the reason why there is none."""
        count = _template(f"select pg_catalog.count(*) from (select 1 limit {ROWS_MAX + 1}) as counted")
        limited = count.fromClause[0].subquery
        rows = _copied(rows)
        rows.limitCount, rows.limitOption = limited.limitCount, limited.limitOption
        count.fromClause[0].subquery = rows
        count.withClause = tables
        probe, reason = self._checked(count, _COUNTED)
        return replace(part, probe=probe, reason=reason)

    def _checked(self, node: Any, allowed: frozenset[Action]) -> tuple[Probe | None, str]:
        """A tree as a probe; it may share its parts with others."""
        if self._written > _WRITTEN_MAX:
            return None, "the statement is too long to be followed that far"
        text = _text_of(node)
        again = None if text is None else _only(text)
        if text is None or again is None or again != node:
            return None, "it could not be written down again"
        self._written += len(text)
        numbers = _renumbered(again)
        if numbers != tuple(range(1, len(numbers) + 1)):
            text = _text_of(again)
            if text is None or _only(text) != again:
                return None, "it could not be written down again"
        inner = again.query if type(again) is ast.ExplainStmt else again
        return self._judged(inner, text, numbers, allowed)

    def _judged(
        self, node: Any, text: str, numbers: tuple[int, ...], allowed: frozenset[Action]
    ) -> tuple[Probe | None, str]:
        """The text as a probe, or why it must not run in advance. `node` is what it runs or plans."""
        reader = _Rehearsal(self._state.copy())
        try:
            reader.command(node, text)
        except TroubleError as trouble:
            return None, f"the target would refuse it ({trouble.problem.sqlstate})"
        except RecursionError:
            return None, "it is nested too deeply"
        effects = reader.touched.finished()
        said = {_said(effect) for effect in effects if not _is_innocent(effect, allowed)}
        if said:
            return None, min(said)
        tables = frozenset(effect.thing.path for effect in effects if effect.thing.kind is Kind.TABLE)
        return Probe(text, numbers, tables), ""


_COUNTED = frozenset({Action.READ})
_PLANNED = frozenset({Action.READ, Action.INSERT, Action.UPDATE, Action.DELETE})

_VERBS: dict[type[Any], str] = {
    ast.SelectStmt: "returned",
    ast.InsertStmt: "inserted",
    ast.UpdateStmt: "updated",
    ast.DeleteStmt: "deleted",
    ast.MergeStmt: "changed",
}

_EVENTS = {CmdType.CMD_INSERT: "insert", CmdType.CMD_UPDATE: "update", CmdType.CMD_DELETE: "delete"}

# pg_constraint.confdeltype and confupdtype; the others (no action, restrict) let nothing happen.
_KEY_WORDS = {"c": "deleted", "n": "set to NULL", "d": "set to their default"}


def _changes_names(statement: Statement) -> bool:
    """Whether what follows that statement in one text may mean something else than it would alone."""
    if statement.change is not None and not isinstance(statement.change, Transaction | Deallocate | DeclareCursor | Prepare):
        return True
    return any(effect.action in (Action.UNKNOWN, Action.ADMIN) for effect in statement.effects)


def _is_innocent(effect: Effect, allowed: frozenset[Action]) -> bool:
    if effect.action is Action.CALL:
        is_read = effect.thing.kind is Kind.FUNCTION and effect.attribute("opaque") is False
        return is_read and effect.attribute("extension") not in _NOT_IN_ADVANCE_EXTENSIONS
    if effect.action is Action.READ and effect.attribute("locks") and allowed is not _PLANNED:
        return False
    return effect.action in allowed and effect.thing.kind in (Kind.TABLE, Kind.SEQUENCE)


def _said(effect: Effect) -> str:
    name = effect.thing.name
    if effect.action is Action.CALL:
        return f"it calls {name}(), whose work cannot be foreseen"
    if effect.action is Action.UNKNOWN:
        if effect.thing.kind is Kind.FUNCTION:
            return f"it calls {name}(), which is not run in advance"
        place = f" ({name})" if name else ""
        return f"{effect.attribute('reason')}{place}"
    return f"it does more than read: {effect.action} {effect.thing}"


def _template(text: str) -> Any:
    return parse_sql(text)[0].stmt


def _only(text: str) -> Any:
    try:
        parsed = parse_sql(text)
    except (GrammarError, ValueError, RecursionError):
        return None
    return parsed[0].stmt if len(parsed) == 1 else None


def _text_of(node: Any) -> str | None:
    try:
        text: str = RawStream()(node)
    except (RecursionError, NotImplementedError, ValueError, AttributeError, TypeError, KeyError):
        return None  # The printer does not know every node; what it prints wrongly does not parse to the same tree.
    return text


def _copied(node: Any) -> Any:
    """The same node with the same parts, for putting others in their places."""
    made = type(node)()
    for name in node.__slots__:
        setattr(made, name, getattr(node, name))
    return made


def _rows_of(matched: _Matched) -> Any:
    """SELECT 1 of those rows."""
    select = _template("select 1 from a")
    select.fromClause = (matched.relation,)
    if matched.beside:
        exists = _template("select 1 where exists (select 1 from a)").whereClause
        exists.subselect.fromClause, exists.subselect.whereClause = tuple(matched.beside), matched.where
        select.whereClause = exists
    else:
        select.whereClause = matched.where
    return select


def _unmatched(rows: Any, others: Any, condition: Any) -> Any:
    """SELECT 1 of the rows to which none of the others fits."""
    select = _template("select 1 from a where not exists (select 1 from b where c)")
    exists = select.whereClause.args[0].subselect
    select.fromClause, exists.fromClause, exists.whereClause = (rows,), (others,), condition
    return select


def _range(relation: Relation, alias: str | None = None) -> Any:
    # A partitioned table or a parent stands for all below it, which is what a key or a DROP means too.
    made = _template("select 1 from a.b as c").fromClause[0]
    made.schemaname, made.relname = relation.schema, relation.name
    made.alias = None if alias is None else ast.Alias(aliasname=alias)
    return made


def _both(*conditions: Any) -> Any:
    kept = tuple(condition for condition in conditions if condition is not None)
    # As the grammar would build it out of the same text: a chain of AND is one node.
    flat: list[Any] = []
    for each in kept:
        is_chain = type(each) is ast.BoolExpr and each.boolop == BoolExprType.AND_EXPR
        flat.extend(each.args if is_chain else (each,))
    return flat[0] if len(flat) == 1 else ast.BoolExpr(boolop=BoolExprType.AND_EXPR, args=tuple(flat))


def _without(clause: Any, writers: frozenset[str]) -> Any:
    """The WITH clause without what writes; None where nothing is left."""
    if clause is None:
        return None
    kept = tuple(cte for cte in clause.ctes if cte.ctename not in writers)
    return ast.WithClause(ctes=kept, recursive=clause.recursive) if kept else None


def _nodes(node: Any, outside: Any = None) -> list[Any]:
    """Every node from that one on, save what is below `outside`."""
    found: list[Any] = []
    waiting = [node] if node is not None else []
    while waiting:
        each = waiting.pop()
        if each is outside:
            continue
        found.append(each)
        if len(found) > _NODES_MAX:
            raise RecursionError
        waiting.extend(children(each))
    return found


def _names_any(node: Any, names: frozenset[str], outside: Any = None) -> bool:
    if not names:
        return False
    return any(
        type(each) is ast.RangeVar and each.schemaname is None and each.relname in names for each in _nodes(node, outside)
    )


def _is_flat(node: Any) -> bool:
    """Whether a SELECT without FROM has surely one row: it calls nothing, so nothing that makes several."""
    calls = any(type(each) is ast.FuncCall for each in _nodes(node))
    return not calls and node.limitCount is None and node.limitOffset is None


def _renumbered(node: Any) -> tuple[int, ...]:
    """Number the parameters of a tree from 1 without gaps; gives what their numbers were."""
    used = [each for each in _nodes(node) if type(each) is ast.ParamRef]
    numbers = tuple(sorted({each.number for each in used}))
    for each in used:
        each.number = numbers.index(each.number) + 1
    return numbers
