"""What a query does: where its rows come from, what becomes of their columns, and what writing rows sets off."""

from __future__ import annotations

from typing import Any

from pglast.enums import (
    CmdType,
    JoinType,
    MergeMatchKind,
    OnConflictAction,
    ReturningOptionKind,
    SetOperation,
    SubLinkType,
)

from appliance.effects import Action, Effect, Kind, Scalar, Thing, Use, unknown
from appliance.sql import results, system
from appliance.sql.catalogue import ForeignKey, Relation
from appliance.sql.expressions import BODIES_MAX, Expressions
from appliance.sql.labels import label
from appliance.sql.names import SYSTEM_SCHEMAS, State, TroubleError, kin
from appliance.sql.reading import Source
from appliance.sql.scopes import NO_SOURCES, Column, CommonTable, Entry, Scope
from appliance.sql.touched import Touched, table
from appliance.sql.tree import ast, children, parse_body, strings

# Rounds after which the columns of a recursive query still get new sources count as computed.
_ROUNDS_MAX = 8

_USER_OIDS = 16_384

_TSVECTOR = 3_614  # pg_type.dat

# What the system's own functions make that unnest takes.
_ARRAY_MAKERS = frozenset(
    {
        "array_agg",
        "array_append",
        "array_cat",
        "array_fill",
        "array_positions",
        "array_prepend",
        "array_remove",
        "array_replace",
        "regexp_match",
        "regexp_split_to_array",
        "string_to_array",
        "trim_array",
        "tsvector_to_array",
    }
)
_TSVECTOR_MAKERS = frozenset(
    {"array_to_tsvector", "json_to_tsvector", "jsonb_to_tsvector", "setweight", "strip", "to_tsvector", "ts_delete"}
)

_Item = tuple[list[Entry], list[Column], bool]


class Queries(Expressions):
    """Reads SELECT, VALUES, INSERT, UPDATE, DELETE and MERGE."""

    # --- SELECT

    def query(self, node: Any, scope: Scope | None) -> list[Column]:
        """The columns of any query that may stand inside another (a writing one only in WITH)."""
        kind = type(node)
        if kind is ast.SelectStmt:
            return self.select(node, scope)
        if kind is ast.InsertStmt:
            return self.insert(node, scope) or []
        if kind is ast.UpdateStmt:
            return self.update(node, scope) or []
        if kind is ast.DeleteStmt:
            return self.delete(node, scope) or []
        if kind is ast.MergeStmt:
            return self.merge(node, scope) or []
        self.unknown(f"{kind.__name__} is not understood as a query")
        return []

    def select(self, node: Any, scope: Scope | None, *, lazily: bool = False) -> list[Column]:
        """The columns of a SELECT or VALUES. `lazily`: what only goes into an output column is left to whoever uses the
        column (`Column.computed`)."""
        self.depth += 1
        if self.depth > 100:
            raise TroubleError("54001", "statement too complex")
        if node.withClause is not None:
            scope = self.with_tables(node.withClause, scope)
        if node.op != SetOperation.SETOP_NONE:
            columns = self._combined(node, scope, lazily=lazily)
        elif node.valuesLists:
            columns = self._values(node, scope)
        else:
            columns = self._simple(node, scope, lazily=lazily)
        self.depth -= 1
        return columns

    def _combined(self, node: Any, scope: Scope | None, *, lazily: bool) -> list[Column]:
        # Chains of UNION lean to the left: down that side in a loop.
        spine = [node]
        while spine[-1].larg.op != SetOperation.SETOP_NONE and not _has_clauses(spine[-1].larg):
            spine.append(spine[-1].larg)
        columns = self.select(spine[-1].larg, scope, lazily=lazily)
        for part in reversed(spine):
            right = self.select(part.rarg, scope, lazily=lazily)
            columns = self._united(part, columns, right)
        inner = Scope(parent=scope)
        self._ordered(node, inner, columns, combined=True)
        return columns

    def _united(self, node: Any, left: list[Column], right: list[Column]) -> list[Column]:
        if len(left) != len(right):
            raise TroubleError("42601", "each UNION query must have the same number of columns")
        if node.op != SetOperation.SETOP_UNION or not node.all:
            self.use_all(left, Use.COMPUTE)
            self.use_all(right, Use.COMPUTE)
            if not all(column.plain for column in (*left, *right)):
                self.operator(node, None, "=", plain=False)
        return [
            Column(
                first.name,
                first.sources | second.sources,
                first.computed | second.computed,
                first.plain and second.plain,
                first.type_oid if first.type_oid == second.type_oid else 0,
            )
            for first, second in zip(left, right, strict=True)
        ]

    def _values(self, node: Any, scope: Scope | None) -> list[Column]:
        inner = Scope(parent=scope)
        width = len(node.valuesLists[0])
        plain = [True] * width
        for row in node.valuesLists:
            if len(row) != width:
                raise TroubleError("42601", "VALUES lists must all be the same length")
            for index, value in enumerate(row):
                plain[index] &= self.expression(value, inner)
        columns = [Column(f"column{index + 1}", plain=plain[index]) for index in range(width)]
        self._ordered(node, inner, columns, combined=True)
        return columns

    def _simple(self, node: Any, scope: Scope | None, *, lazily: bool) -> list[Column]:
        if node.intoClause is not None and not self.may_store(node):
            self.unknown("SELECT INTO is not allowed here")
        inner = self.from_list(node.fromClause, scope)
        if node.whereClause is not None:
            self.condition(node.whereClause, inner)
        columns = self.targets(node.targetList or (), inner, lazily=lazily)
        if node.groupClause:
            if node.groupDistinct and self.catalogue.server_version < 140_000:
                self.unknown("GROUP BY DISTINCT is newer than the server")
            for item in node.groupClause:
                self._grouped(item, inner, columns)
        if node.havingClause is not None:
            self.expression(node.havingClause, inner)
        for window in node.windowClause or ():
            self._window_by(window, inner)
        if node.distinctClause:
            if node.distinctClause[0] is None:
                self.use_all(columns, Use.COMPUTE)
                if not all(column.plain for column in columns):
                    self.operator(node, None, "=", plain=False)
            else:
                for item in node.distinctClause:
                    self._by_output(item, inner, columns)
        self._ordered(node, inner, columns, combined=False)
        if node.lockingClause:
            self._locks(node, inner)
        return columns

    def may_store(self, node: Any) -> bool:  # noqa: ARG002
        """Whether that SELECT may have an INTO."""
        return False

    def _window_by(self, node: Any, scope: Scope) -> None:
        self.window(node, scope)

    def _ordered(self, node: Any, scope: Scope, columns: list[Column], *, combined: bool) -> None:
        for item in node.sortClause or ():
            plain = self._by_output(item.node, scope, columns, combined=combined)
            if item.useOp:
                names = strings(item.useOp)
                self.operator(item, names[-2] if len(names) > 1 else None, names[-1], plain=plain)
        for limit in (node.limitOffset, node.limitCount):
            if limit is not None:
                self.expression(limit, scope)

    def _by_output(self, node: Any, scope: Scope, columns: list[Column], *, combined: bool = False) -> bool:
        """ORDER BY or DISTINCT ON: an output column by name or number, or else an expression."""
        if type(node) is ast.A_Const and type(node.val) is ast.Integer:
            return self._by_number(node.val.ival, columns)
        if type(node) is ast.ColumnRef and len(node.fields) == 1 and type(node.fields[0]) is ast.String:
            named = [column for column in columns if column.name == node.fields[0].sval]
            if named:
                self.use_all(named, Use.COMPUTE)
                return all(column.plain for column in named)
            if combined:
                raise self.trouble(node, "42703", f'column "{node.fields[0].sval}" does not exist')
        return self.expression(node, scope)

    def _by_number(self, number: int | None, columns: list[Column]) -> bool:
        if number is None or not 1 <= number <= len(columns):
            raise TroubleError("42P10", f"position {number} is not in select list")
        self.use(columns[number - 1], Use.COMPUTE)
        return columns[number - 1].plain

    def _grouped(self, node: Any, scope: Scope, columns: list[Column]) -> None:
        kind = type(node)
        if kind is ast.GroupingSet:
            for item in node.content or ():
                self._grouped(item, scope, columns)
        elif kind is ast.A_Const and type(node.val) is ast.Integer:
            self._by_number(node.val.ival, columns)
        elif kind is ast.RowExpr:
            for item in node.args or ():
                self._grouped(item, scope, columns)
        elif kind is ast.ColumnRef and len(node.fields) == 1 and type(node.fields[0]) is ast.String:
            # A column of FROM goes before an output column of that name, an outer query's column after it.
            name = node.fields[0].sval
            named = [column for column in columns if column.name == name]
            local = any(c.name == name for entry in scope.entries if entry.unqualified for c in entry.columns)
            unsure = any(entry.open for entry in scope.entries)
            if named and (not local or unsure):
                self.use_all(named, Use.COMPUTE)
            if local or not named:
                self.expression(node, scope)
        else:
            self.expression(node, scope)

    def _locks(self, node: Any, scope: Scope) -> None:
        names: set[str] | None = set()
        for clause in node.lockingClause:
            if not clause.lockedRels:
                names = None
            elif names is not None:
                names |= {locked.relname for locked in clause.lockedRels}
        for entry in scope.entries:
            if entry.relation is not None and (names is None or entry.name in names):
                self.locked(entry.relation, mode="ROW")

    def locked(self, relation: Relation, mode: str) -> None:
        """Rows of a relation, or all of it, are locked."""
        marks: tuple[tuple[str, Scalar], ...] = (("locks", True), ("mode", mode))
        for each in (relation, *kin(self.catalogue, relation)):
            self.touched.add(Effect(Action.READ, table(each.schema, each.name), attributes=marks))

    # --- output columns

    def targets(self, nodes: Any, scope: Scope, *, lazily: bool = False) -> list[Column]:
        """The output columns of a SELECT or RETURNING list."""
        columns: list[Column] = []
        for target in nodes:
            value = target.val
            kind = type(value)
            if kind is ast.ColumnRef and type(value.fields[-1]) is ast.A_Star:
                columns.extend(self._starred(value, scope))
            elif kind is ast.A_Indirection and type(value.indirection[-1]) is ast.A_Star:
                columns.extend(self._row_starred(value, scope))
            elif kind is ast.ColumnRef:
                columns.append(self._passed(target, value, scope))
            elif kind is ast.TypeCast and (inner := self.uncast(value, scope)) is not value:
                columns.append(self._passed(target, inner, scope))
            else:
                columns.append(self._computed(target, scope, lazily=lazily))
        return columns

    def _passed(self, target: Any, value: Any, scope: Scope) -> Column:
        found = self.find(value, scope)
        if isinstance(found, Entry):
            self.use_all(found.columns, Use.COMPUTE)
            return Column(target.name or label(target.val))
        return Column(target.name or found.name, found.sources, found.computed, found.plain, found.type_oid)

    def _computed(self, target: Any, scope: Scope, *, lazily: bool) -> Column:
        name = target.name or label(target.val)
        if not lazily:
            return Column(name, plain=self.expression(target.val, scope))
        outside, self.touched = self.touched, Touched()
        try:
            plain = self.expression(target.val, scope)
        finally:
            inside, self.touched = self.touched, outside
        computed: set[Source] = set()
        for (thing, use), fields in inside.reads.items():
            self.touched.scan(thing)
            if use is not None:
                computed.update(Source(thing, field, 0) for field in fields)
        self.touched.effects |= inside.effects
        return Column(name, computed=frozenset(computed), plain=plain)

    def _starred(self, node: Any, scope: Scope) -> list[Column]:
        if len(node.fields) == 1:
            entries = [entry for entry in scope.entries if entry.unqualified]
            if not entries:
                raise self.trouble(node, "42601", "SELECT * with no tables specified is not valid")
        else:
            names = strings(node.fields[:-1])
            if len(names) > 3 or (len(names) == 3 and names[0] != self.catalogue.database):
                raise self.trouble(node, "0A000", "cross-database references are not implemented")
            entry = self.entry(names[-2] if len(names) > 1 else None, names[-1], scope)
            if entry is None:
                raise self.trouble(node, "42P01", f'missing FROM-clause entry for table "{names[-1]}"')
            entries = [entry]
        columns: list[Column] = []
        for entry in entries:
            if entry.open or not entry.counted:
                self.unknown("which columns * stands for is not known")
            columns.extend(entry.columns)
        return columns

    def _row_starred(self, node: Any, scope: Scope) -> list[Column]:
        # (row).* of a row that we know; any other composite value has columns that we do not know.
        if len(node.indirection) == 1 and type(node.arg) is ast.ColumnRef and type(node.arg.fields[-1]) is not ast.A_Star:
            found = self.find(node.arg, scope)
            if isinstance(found, Entry) and not found.open:
                self.use_all(found.columns, Use.COMPUTE)
                return [Column(column.name, plain=column.plain) for column in found.columns]
        if len(node.indirection) == 1 and type(node.arg) is ast.FuncCall:
            names = strings(node.arg.funcname)
            known = results.COLUMNS.get(names[-1])
            self.expression(node.arg, scope)
            if (
                known
                and len(known) > 1
                and names[:-1] in ((), ("pg_catalog",))
                and not self.state.functions(None, names[-1])
            ):
                return [Column(name) for name in known]
            if names == ("information_schema", "_pg_expandarray"):
                return [Column("x"), Column("n")]
        else:
            self.expression(node, scope)
        self.unknown("which columns * stands for is not known")
        return []

    # --- WITH

    def with_tables(self, clause: Any, scope: Scope | None) -> Scope:
        """The scope in which the queries of a WITH clause have names."""
        inner = Scope(parent=scope, tables={})
        tables = inner.tables
        assert tables is not None
        if clause.recursive:
            for cte in clause.ctes:
                tables[cte.ctename] = self._pending(cte, inner)
            for cte in clause.ctes:
                self._columns_of(tables[cte.ctename])
        else:
            for cte in clause.ctes:
                # Only those before it are in `tables` by now: its own name still means the real table inside it.
                common = CommonTable(cte.ctename, None)
                common.columns = self._renamed(cte, self._inner(cte.ctequery, inner))
                if cte.ctename in tables:
                    raise self.trouble(cte, "42712", f'WITH query name "{cte.ctename}" specified more than once')
                tables[cte.ctename] = common
        return inner

    def _inner(self, node: Any, scope: Scope | None) -> list[Column]:
        """A query whose columns others go on using. They are read here, whether or not any of them reaches the output."""
        columns = self.query(node, scope)
        if not self.owned:
            self.use_all(columns, Use.OUTPUT)
        return columns

    def _pending(self, cte: Any, scope: Scope) -> CommonTable:
        common = CommonTable(cte.ctename, None)
        common.pending = lambda: self._recursive(cte, common, scope)
        return common

    def _columns_of(self, common: CommonTable) -> list[Column]:
        if common.columns is None:
            if common.reading or common.pending is None:
                raise TroubleError("42P19", f'recursive reference to query "{common.name}" must not appear here')
            common.reading = True
            common.columns = common.pending()
            common.reading = False
        elif common.reading:
            common.recurs = True
        return common.columns

    def _recursive(self, cte: Any, common: CommonTable, scope: Scope) -> list[Column]:
        query = cte.ctequery
        if type(query) is not ast.SelectStmt or query.op != SetOperation.SETOP_UNION:
            return self._renamed(cte, self._inner(query, scope))
        inner = scope if query.withClause is None else self.with_tables(query.withClause, scope)
        left = self.select(query.larg, inner)
        columns = left
        for _ in range(_ROUNDS_MAX):
            common.columns = self._renamed(cte, columns)
            common.recurs = False
            right = self.select(query.rarg, inner)
            united = self._united(query, columns, right)
            stable = [c.sources for c in united] == [c.sources for c in columns]
            columns = united
            if stable or not common.recurs:
                break
        else:
            self.use_all(columns, Use.COMPUTE)
        self._ordered(query, Scope(parent=inner), columns, combined=True)
        if query.lockingClause:
            self.unknown("a recursive query with locks")
        if not self.owned:
            self.use_all(columns, Use.OUTPUT)
        return self._renamed(cte, columns)

    def _renamed(self, cte: Any, columns: list[Column]) -> list[Column]:
        columns = _named(columns, strings(cte.aliascolnames or ()))
        extra: list[str] = []
        for clause, listed in ((cte.search_clause, "search_col_list"), (cte.cycle_clause, "cycle_col_list")):
            if clause is None:
                continue
            if self.catalogue.server_version < 140_000:
                self.unknown("SEARCH and CYCLE are newer than the server")
            wanted = set(strings(getattr(clause, listed)))
            self.use_all([column for column in columns if column.name in wanted], Use.COMPUTE)
        if cte.search_clause is not None:
            extra.append(cte.search_clause.search_seq_column)
        if cte.cycle_clause is not None:
            for value in (cte.cycle_clause.cycle_mark_value, cte.cycle_clause.cycle_mark_default):
                if value is not None:
                    self.expression(value, Scope())
            extra += [cte.cycle_clause.cycle_mark_column, cte.cycle_clause.cycle_path_column]
        return [*columns, *(Column(name) for name in extra)]

    # --- FROM

    def from_list(self, nodes: Any, scope: Scope | None) -> Scope:
        """The scope that a FROM list opens."""
        inner = Scope(parent=scope)
        for node in nodes or ():
            entries, _, _ = self.from_item(node, inner, scope)
            inner.entries.extend(entries)
        return inner

    def from_item(self, node: Any, lateral: Scope, outer: Scope | None) -> _Item:
        """One item of FROM: what it adds to the scope, its columns, and whether there may be more of them. `lateral` is
        what it may refer to where it is LATERAL, `outer` otherwise."""
        self.depth += 1
        if self.depth > 100:
            raise TroubleError("54001", "statement too complex")
        kind = type(node)
        if kind is ast.JoinExpr:
            item = self._join(node, lateral, outer)
        else:
            if kind is ast.RangeVar:
                entry = self._from_table(node, outer)
            elif kind is ast.RangeSubselect:
                entry = self._from_query(node, lateral if node.lateral else outer)
            elif kind is ast.RangeFunction:
                entry = self._from_functions(node, lateral)
            elif kind is ast.RangeTableFunc:
                entry = self._from_xml(node, lateral)
            elif kind is ast.JsonTable:
                entry = self._from_json(node, lateral)
            elif kind is ast.RangeTableSample:
                entry = self._from_sample(node, lateral, outer)
            else:
                self.unknown(f"{kind.__name__} is not understood in FROM")
                entry = Entry(None, [], open=True)
            item = [entry], entry.columns, entry.open
        self.depth -= 1
        return item

    def _from_table(self, node: Any, scope: Scope | None) -> Entry:
        if node.schemaname is None and scope is not None:
            common = scope.table(node.relname)
            if common is not None:
                return _aliased(Entry(node.relname, list(self._columns_of(common))), node.alias)
        relation = self.relation(node)
        return self._entry(relation, node)

    def relation(self, node: Any) -> Relation:
        """The relation that a RangeVar names; never a WITH query."""
        if node.catalogname is not None and node.catalogname != self.catalogue.database:
            raise self.trouble(node, "0A000", "cross-database references are not implemented")
        relation = self.state.relation(node.schemaname, node.relname)
        if relation is None:
            name = node.relname if node.schemaname is None else f"{node.schemaname}.{node.relname}"
            raise self.trouble(node, "42P01", f'relation "{name}" does not exist')
        return relation

    def _entry(self, relation: Relation, node: Any) -> Entry:
        columns = self.scanned(relation, descend=node.inh is not False)
        system_columns = relation if relation.kind not in ("v",) else None
        entry = Entry(relation.name, columns, relation=system_columns or relation, aliased=False)
        return _aliased(entry, node.alias)

    def scanned(self, relation: Relation, *, descend: bool = True) -> list[Column]:
        """Rows of a relation are read; gives its columns."""
        if relation.schema in SYSTEM_SCHEMAS:
            if not system.is_readable_relation(relation.schema, relation.name):
                self.unknown(
                    "this relation of the system is not on the allow-list", Kind.TABLE, relation.schema, relation.name
                )
            self.touched.scan(table(relation.schema, relation.name))
            return self.columns(relation)
        if relation.kind == "S":
            self.touched.add(Effect(Action.READ, _sequence_thing(relation)))
            return [Column(name, plain=True) for name in ("last_value", "log_cnt", "is_called")]
        if relation.kind not in ("r", "p", "f", "v", "m", "t"):
            raise TroubleError("42809", f'cannot open relation "{relation.name}"')
        self.touched.scan(table(relation.schema, relation.name))
        for each in kin(self.catalogue, relation, descend=descend):
            self.touched.scan(table(each.schema, each.name))
        for text in relation.expressions:
            self.owned_expression(text, relation)
        # Rewrite rules of what is no view answer to writing only: one ON SELECT makes a table a view (CREATE RULE).
        columns = self.columns(relation, descend=descend)
        if relation.definition is not None and relation.kind in ("v", "m"):
            beneath, touched = self._beneath(relation)
            self.touched.take(touched)
            columns = [
                Column(own.name, own.sources | deep.sources, deep.computed, own.plain, own.type_oid)
                for own, deep in zip(columns, beneath, strict=True)
            ]
        elif relation.kind in ("v", "m"):
            self.unknown("the definition of this view is not known", Kind.TABLE, relation.schema, relation.name)
        return columns

    def columns(self, relation: Relation, *, descend: bool = True) -> list[Column]:
        """The columns of a relation with themselves, and the same of its kin, as sources."""
        key = ("columns", relation.oid, descend)
        kept: list[Column] | None = self.catalogue.memory.get(key) if self.is_lasting(relation) else None
        if kept is None:
            family = (relation, *kin(self.catalogue, relation, descend=descend))
            kept = []
            for column in relation.columns:
                sources = frozenset(
                    Source(table(each.schema, each.name), column.name, column.type_oid)
                    for each in family
                    if each is relation or any(column.name == other.name for other in each.columns)
                )
                made_of = NO_SOURCES.union(*(self._generated_from(each, column.name) for each in family))
                plain = 0 < column.type_oid < _USER_OIDS
                kept.append(Column(column.name, sources, made_of, plain, column.type_oid))
            if self.is_lasting(relation):
                self.catalogue.memory[key] = kept
        return list(kept)

    def _generated_from(self, relation: Relation, name: str) -> frozenset[Source]:
        """The columns from which a generated column's value is computed; all of them where its expression cannot be read."""
        column = next((column for column in relation.columns if column.name == name), None)
        if column is None or not column.generated:
            return NO_SOURCES
        parsed = parse_body("select " + column.default) if column.default is not None else None
        used = {other.name for other in relation.columns if other is not column}
        if parsed is not None and len(parsed) == 1:
            named = _names_in(parsed[0].stmt)
            used = used if named is None or not named <= used else named
        thing = table(relation.schema, relation.name)
        return frozenset(Source(thing, each, 0) for each in used)

    def _beneath(self, relation: Relation) -> tuple[list[Column], Touched]:
        """What reading a view does, and where its columns come from."""
        key = ("view", relation.oid)
        may_keep = self.is_lasting(relation)
        if may_keep and key in self.catalogue.memory:
            kept: tuple[list[Column], Touched] = self.catalogue.memory[key]
            return kept
        lost = [Column(column.name) for column in relation.columns]
        if key in self.bodies or len(self.bodies) >= BODIES_MAX:
            touched = Touched()
            touched.add(_unread(relation, "views are nested too deeply"))
            return lost, touched
        state = self.state.copy()
        state.path = ()
        inner = type(self)(state, bodies=(*self.bodies, key), owned=True)
        columns = lost
        try:
            statements = parse_body(relation.definition or "")
            if statements is None or len(statements) != 1 or type(statements[0].stmt) is not ast.SelectStmt:
                inner.touched.add(_unread(relation, "its definition could not be parsed"))
            else:
                found = inner.select(statements[0].stmt, None, lazily=True)
                if len(found) == len(lost):
                    columns = found
                else:
                    inner.touched.add(_unread(relation, "its definition has other columns"))
        except TroubleError:
            inner.touched.add(_unread(relation, "its definition could not be read"))
        if may_keep and (inner.touched.is_clear() or not self.bodies):
            self.catalogue.memory[key] = (columns, inner.touched)
        return columns, inner.touched

    def _from_query(self, node: Any, scope: Scope | None) -> Entry:
        columns = self._inner(node.subquery, scope)
        return _aliased(Entry(None, columns), node.alias)

    def _from_functions(self, node: Any, lateral: Scope) -> Entry:
        columns: list[Column] = []
        is_open, is_counted = False, True
        functions = node.functions
        name = None
        for call, definitions in functions:
            name = label(call)
            plain = self.expression(call, lateral)
            if definitions:
                columns.extend(self._defined(definitions, lateral))
                continue
            single = node.alias if len(functions) == 1 else None
            found, more = self._shown(call, name, plain=plain, single=single)
            if name == "unnest" and len(found) == 1 and not more:
                sort = self._unnested(call.args[0], lateral) if call.args else None
                lexemes = [Column(column, plain=True) for column in results.COLUMNS["unnest"]]
                # Where its argument's type cannot be told, either names find what they mean, but * cannot be counted.
                found = lexemes if sort == "tsvector" else found if sort == "array" else [*found, *lexemes]
                is_counted &= sort is not None
            elif name == "unnest":
                is_counted &= all(self._unnested(value, lateral) == "array" for value in call.args or ())
            columns.extend(found)
            is_open |= more
        if node.coldeflist:
            columns, is_open = self._defined(node.coldeflist, lateral), False
        if node.ordinality:
            if is_open and columns == []:
                self.unknown("which columns a function shows is not known")
            columns.append(Column("ordinality", plain=True))
        return _aliased(Entry(name, columns, open=is_open, counted=is_counted), node.alias)

    def _unnested(self, value: Any, scope: Scope) -> str | None:
        """Whether unnest is given an "array" or a "tsvector" there; None where that cannot be told."""
        kind = type(value)
        if kind is ast.A_ArrayExpr or (kind is ast.SubLink and value.subLinkType == SubLinkType.ARRAY_SUBLINK):
            return "array"
        if kind is ast.TypeCast:
            name = strings(value.typeName.names)[-1]
            return "array" if value.typeName.arrayBounds or name[0] == "_" else "tsvector" if name == "tsvector" else None
        if kind is ast.FuncCall:
            maker = value.funcname[-1].sval
            if not self.state.functions(None, maker):
                return "array" if maker in _ARRAY_MAKERS else "tsvector" if maker in _TSVECTOR_MAKERS else None
        if kind is ast.ColumnRef and type(value.fields[-1]) is not ast.A_Star:
            found = self.find(value, scope)
            if isinstance(found, Column) and 0 < found.type_oid < _USER_OIDS:
                return "tsvector" if found.type_oid == _TSVECTOR else "array"
        return None

    def _defined(self, definitions: Any, scope: Scope) -> list[Column]:
        found = []
        for definition in definitions:
            plain = self.type_name(definition.typeName, scope)
            found.append(Column(definition.colname, plain=plain))
        return found

    def _shown(self, call: Any, name: str, *, plain: bool, single: Any) -> tuple[list[Column], bool]:
        """The columns of a function in FROM, and whether there may be others."""
        scalar = Column(single.aliasname if single is not None else name, plain=plain)
        if type(call) is not ast.FuncCall:
            return [scalar], not plain
        names = strings(call.funcname)
        schema = names[-2] if len(names) > 1 else None
        users = self.state.functions(schema, name)
        if not self.state.is_system_function(schema, name):
            shapes = {function.columns for function in users}
            shape = shapes.pop() if len(shapes) == 1 else None
            if shape is None:
                return [scalar], True
            # One column takes the alias unless it is an OUT argument, whose name goes first.
            return [scalar] if shape == (name,) else [Column(column) for column in shape], False
        if users:
            return [scalar], True
        if name == "_pg_expandarray":
            return [Column("x"), Column("n", plain=True)], False
        known = results.COLUMNS.get(name) if name != "unnest" else None
        if known is not None:
            return [Column(column, plain=plain) for column in known], False
        if name in results.OPEN:
            return [], True
        if name == "unnest" and len(call.args or ()) > 1:
            return [Column("unnest", plain=plain) for _ in call.args], not plain
        if name in results.OF_ELEMENTS:
            return [scalar], not plain
        return [scalar], False

    def _from_xml(self, node: Any, lateral: Scope) -> Entry:
        columns = []
        for child in (node.docexpr, node.rowexpr, *(node.namespaces or ())):
            if child is not None:
                self.expression(child, lateral)
        for column in node.columns or ():
            for child in (column.colexpr, column.coldefexpr):
                if child is not None:
                    self.expression(child, lateral)
            plain = True if column.typeName is None else self.type_name(column.typeName, lateral)
            columns.append(Column(column.colname, plain=plain))
        return _aliased(Entry("xmltable", columns), node.alias)

    def _from_json(self, node: Any, lateral: Scope) -> Entry:
        if self.catalogue.server_version < 170_000:
            self.unknown("JSON_TABLE is newer than the server")
        columns: list[Column] = []
        waiting = [child for child in children(node) if type(child) is not ast.Alias]
        while waiting:
            child = waiting.pop(0)
            if type(child) is ast.JsonTableColumn:
                if child.name is not None:
                    columns.append(Column(child.name))
                waiting = [*children(child), *waiting]
            else:
                self.expression(child, lateral)
        return _aliased(Entry("json_table", columns), node.alias)

    def _from_sample(self, node: Any, lateral: Scope, outer: Scope | None) -> Entry:
        names = strings(node.method)
        self.expressions(node.args, lateral)
        if node.repeatable is not None:
            self.expression(node.repeatable, lateral)
        if names[-1] not in ("system", "bernoulli") or names[:-1] not in ((), ("pg_catalog",)):
            self.called(node, names[-2] if len(names) > 1 else None, names[-1], plain=False)
        if type(node.relation) is not ast.RangeVar:
            self.unknown("TABLESAMPLE of something that is no table")
            return Entry(None, [], open=True)
        return self._from_table(node.relation, outer)

    def _join(self, node: Any, lateral: Scope, outer: Scope | None) -> _Item:
        left, left_columns, left_open = self.from_item(node.larg, lateral, outer)
        beside = Scope(parent=lateral.parent, entries=[*lateral.entries, *left])
        right, right_columns, right_open = self.from_item(node.rarg, beside, outer)
        is_open = left_open or right_open
        is_counted = all(entry.counted for entry in (*left, *right))
        names: tuple[str, ...] = strings(node.usingClause or ())
        if node.isNatural:
            if is_open or not is_counted:
                self.unknown("which columns a NATURAL JOIN uses is not known")
            theirs = {column.name for column in right_columns}
            names = tuple(column.name for column in left_columns if column.name in theirs)
        merged = [self._merged(node, name, left_columns, right_columns, is_open=is_open) for name in names]
        if node.quals is not None:
            inner = Scope(parent=outer, entries=[*left, *right])
            if node.jointype == JoinType.JOIN_INNER:
                self.condition(node.quals, inner)
            else:
                self.expression(node.quals, inner)
        gone = set(names)
        columns = [
            *merged,
            *(column for column in left_columns if column.name not in gone),
            *(column for column in right_columns if column.name not in gone),
        ]
        extra = []
        if node.join_using_alias is not None:
            extra = [Entry(node.join_using_alias.aliasname, merged, unqualified=False)]
        if node.alias is not None:
            # The alias may name columns by their place, which cannot be told where they cannot be counted.
            is_open |= not is_counted
            whole = _aliased(Entry(None, columns, open=is_open, counted=is_counted), node.alias)
            if is_open:
                any_of = NO_SOURCES.union(*(column.sources | column.computed for column in columns))
                whole.columns = [Column(column.name, computed=any_of) for column in whole.columns]
            return [whole, *extra], whole.columns, is_open
        for entry in (*left, *right):
            entry.unqualified = False
        joined = Entry(None, columns, qualified=False, open=is_open, counted=is_counted)
        return [*left, *right, joined, *extra], columns, is_open

    def _merged(self, node: Any, name: str, left: list[Column], right: list[Column], *, is_open: bool) -> Column:
        mine = [column for column in left if column.name == name]
        theirs = [column for column in right if column.name == name]
        if is_open and not (mine and theirs):
            self.use_all([*mine, *theirs], Use.COMPUTE)
            return Column(name)
        if not mine or not theirs:
            raise self.trouble(node, "42703", f'column "{name}" specified in USING clause does not exist')
        self.use_all([*mine, *theirs], Use.COMPUTE)
        both = [*mine, *theirs]
        plain = all(column.plain for column in both)
        self.operator(node, None, "=", plain=plain)
        return Column(
            name,
            NO_SOURCES.union(*(column.sources for column in both)),
            NO_SOURCES.union(*(column.computed for column in both)),
            plain,
        )

    # --- writing rows

    def target(self, node: Any) -> tuple[Relation, Entry]:
        """The relation that is written to, and its entry in the scope of the statement. Reading it is no effect yet."""
        relation = self.relation(node)
        if relation.schema in SYSTEM_SCHEMAS:
            self.unknown("the system's own relations are written to", Kind.TABLE, relation.schema, relation.name)
        columns = self.columns(relation, descend=node.inh is not False)
        if relation.kind == "v":
            columns = self.scanned(relation)  # what a condition here uses of it has to be followed to the base
        entry = Entry(relation.name, columns, relation=relation, aliased=False)
        return relation, _aliased(entry, node.alias)

    def insert(self, node: Any, scope: Scope | None) -> list[Column] | None:
        """INSERT; the columns of its RETURNING, or None where it has none."""
        if node.withClause is not None:
            scope = self.with_tables(node.withClause, scope)
        relation, entry = self.target(node.relation)
        source = node.selectStmt
        width = None
        if source is not None:
            columns = self.query(source, scope)
            self.use_all(columns, Use.COMPUTE)  # stored
            width = len(columns)
        names = self._assigned(node.cols, relation, scope)
        if not node.cols and source is not None:
            names = [column.name for column in relation.columns][:width]
        self.written(Action.INSERT, relation, frozenset(names))
        for column in relation.columns:
            if column.default is not None and (column.generated or column.name not in names or _has_default(source)):
                self.owned_expression(column.default, relation)
        inner = Scope(parent=scope, entries=[entry])
        conflict = node.onConflictClause
        if conflict is not None:
            self._conflict(conflict, relation, entry, scope)
        return self._returned(node.returningClause, inner, entry)

    def _assigned(self, targets: Any, relation: Relation, scope: Scope | None) -> list[str]:
        known = {column.name for column in relation.columns}
        names = []
        for target in targets or ():
            if target.name not in known:
                raise self.trouble(target, "42703", f'column "{target.name}" of relation "{relation.name}" does not exist')
            names.append(target.name)
            for part in target.indirection or ():
                if type(part) is not ast.String:
                    self.expression(part, Scope(parent=scope))
        return names

    def _conflict(self, clause: Any, relation: Relation, entry: Entry, scope: Scope | None) -> None:
        local = Scope(parent=scope, entries=[entry])
        if clause.infer is not None:
            for element in clause.infer.indexElems or ():
                if element.name is not None:
                    # Which index decides, by column: no value of it is used beyond what inserting does anyway.
                    if not any(column.name == element.name for column in entry.columns):
                        raise self.trouble(clause, "42703", f'column "{element.name}" does not exist')
                else:
                    self.expression(element.expr, local)
            if clause.infer.whereClause is not None:
                self.expression(clause.infer.whereClause, local)
        if clause.action != OnConflictAction.ONCONFLICT_UPDATE:
            return
        # `excluded` is the row that was to be inserted: the client's own values.
        excluded = Entry("excluded", [Column(c.name, plain=c.plain) for c in entry.columns], unqualified=False)
        both = Scope(parent=scope, entries=[entry, excluded])
        self._set(clause.targetList, relation, both)
        if clause.whereClause is not None:
            self.expression(clause.whereClause, both)

    def _set(self, targets: Any, relation: Relation, scope: Scope) -> None:
        names = self._assigned(targets, relation, scope)
        done: set[int] = set()
        for target in targets:
            value = target.val
            if type(value) is ast.MultiAssignRef:
                if id(value.source) in done:
                    continue
                done.add(id(value.source))
                value = value.source
            self.expression(value, scope)
            if type(value) is ast.SetToDefault:
                for column in relation.columns:
                    if column.name == target.name and column.default is not None:
                        self.owned_expression(column.default, relation)
        for column in relation.columns:
            if column.generated and column.default is not None:
                self.owned_expression(column.default, relation)
        self.written(Action.UPDATE, relation, frozenset(names))

    def update(self, node: Any, scope: Scope | None) -> list[Column] | None:
        """UPDATE; the columns of its RETURNING, or None where it has none."""
        if node.withClause is not None:
            scope = self.with_tables(node.withClause, scope)
        relation, entry = self.target(node.relation)
        inner = self._with_target(entry, node.fromClause, scope)
        self._set(node.targetList, relation, inner)
        self._filtered(node.whereClause, inner)
        return self._returned(node.returningClause, inner, entry)

    def delete(self, node: Any, scope: Scope | None) -> list[Column] | None:
        """DELETE; the columns of its RETURNING, or None where it has none."""
        if node.withClause is not None:
            scope = self.with_tables(node.withClause, scope)
        relation, entry = self.target(node.relation)
        inner = self._with_target(entry, node.usingClause, scope)
        self._filtered(node.whereClause, inner)
        self.written(Action.DELETE, relation, frozenset())
        return self._returned(node.returningClause, inner, entry)

    def _with_target(self, entry: Entry, others: Any, scope: Scope | None) -> Scope:
        # The target is the first thing in FROM, but a LATERAL beside it may not refer to it.
        inner = self.from_list(others, scope)
        inner.entries.insert(0, entry)
        return inner

    def _filtered(self, node: Any, scope: Scope) -> None:
        if node is not None:
            self.condition(node, scope)

    def merge(self, node: Any, scope: Scope | None) -> list[Column] | None:
        """MERGE; the columns of its RETURNING, or None where it has none."""
        if self.catalogue.server_version < 150_000:
            self.unknown("MERGE is newer than the server")
        if node.withClause is not None:
            scope = self.with_tables(node.withClause, scope)
        relation, entry = self.target(node.relation)
        sources, _, _ = self.from_item(node.sourceRelation, Scope(parent=scope), scope)
        both = Scope(parent=scope, entries=[entry, *sources])
        only_source = Scope(parent=scope, entries=list(sources))
        only_target = Scope(parent=scope, entries=[entry])
        self.expression(node.joinCondition, both)
        for clause in node.mergeWhenClauses:
            seen = both
            if clause.matchKind == MergeMatchKind.MERGE_WHEN_NOT_MATCHED_BY_SOURCE:
                seen = only_target
                if self.catalogue.server_version < 170_000:
                    self.unknown("WHEN NOT MATCHED BY SOURCE is newer than the server")
            elif clause.matchKind == MergeMatchKind.MERGE_WHEN_NOT_MATCHED_BY_TARGET:
                seen = only_source
            if clause.condition is not None:
                self.expression(clause.condition, seen)
            if clause.commandType == CmdType.CMD_UPDATE:
                self._set(clause.targetList, relation, seen)
            elif clause.commandType == CmdType.CMD_DELETE:
                self.written(Action.DELETE, relation, frozenset())
            elif clause.commandType == CmdType.CMD_INSERT:
                self.expressions(clause.values, seen)
                names = self._assigned(clause.targetList, relation, scope)
                if not clause.targetList:
                    names = [column.name for column in relation.columns][: len(clause.values or ())]
                self.written(Action.INSERT, relation, frozenset(names))
                for column in relation.columns:
                    if column.default is not None:
                        self.owned_expression(column.default, relation)
            elif clause.commandType != CmdType.CMD_NOTHING:
                self.unknown("a MERGE action is not understood")
        if node.returningClause is not None and self.catalogue.server_version < 170_000:
            self.unknown("MERGE … RETURNING is newer than the server")
        both.entries = [*sources, entry]  # RETURNING * shows the source first
        return self._returned(node.returningClause, both, entry)

    def _returned(self, clause: Any, scope: Scope, entry: Entry) -> list[Column] | None:
        if clause is None:
            return None
        names = {"old": "old", "new": "new"}
        if clause.options and self.catalogue.server_version < 180_000:
            self.unknown("RETURNING WITH is newer than the server")
        for option in clause.options or ():
            names["old" if option.option == ReturningOptionKind.RETURNING_OPTION_OLD else "new"] = option.value
        entries = list(scope.entries)
        if self.catalogue.server_version >= 180_000:
            for name in names.values():
                if not any(other.name == name for other in entries):
                    entries.append(Entry(name, entry.columns, relation=entry.relation, unqualified=False))
        return self.targets(clause.exprs, Scope(parent=scope.parent, entries=entries))

    # --- what writing sets off

    def written(self, action: Action, relation: Relation, fields: frozenset[str], *, cascades: bool = False) -> None:
        """Rows of a relation are written: the effect itself, on its kin too, and what that sets off in turn."""
        key = (action, relation.schema, relation.name, fields)
        if key in self._writes:
            return
        self._writes.add(key)
        marks: tuple[tuple[str, Scalar], ...] = (("cascade", True),) if cascades else ()
        event = action.value
        for each in (relation, *kin(self.catalogue, relation)):
            common = fields if each is relation else fields & {column.name for column in each.columns}
            self.touched.add(Effect(action, table(each.schema, each.name), common, attributes=marks))
            if each.rules:
                self.unknown("this relation has rewrite rules", Kind.TABLE, each.schema, each.name)
            for trigger in each.triggers:
                # A row of a partition that is updated may move: deleted here and inserted there.
                moved = action is Action.UPDATE and each.kind == "p" and trigger.events & {"insert", "delete"}
                if event in trigger.events or moved:
                    self.run_by_oid(trigger.function)
            for text in each.expressions:
                self.owned_expression(text, each)
            for column in each.columns:
                if column.type_oid >= _USER_OIDS and action in (Action.INSERT, Action.UPDATE) and column.name in fields:
                    self.type_runs(column.type_oid)
            self._cascades(action, each, fields)
        if relation.kind == "v":
            self._written_through(action, relation, fields)

    def _cascades(self, action: Action, relation: Relation, fields: frozenset[str]) -> None:
        if action not in (Action.DELETE, Action.UPDATE):
            return
        for key in self._referring(relation):
            child = self.catalogue.relation_by_oid.get(key.child)
            if child is None:
                self.unknown("a table that refers to this one is not known", Kind.TABLE, relation.schema, relation.name)
                continue
            if action is Action.DELETE:
                letter = key.on_delete
            else:
                if key.parent_columns and not fields & set(key.parent_columns):
                    continue
                letter = key.on_update
            if letter == "c" and action is Action.DELETE:
                self.written(Action.DELETE, child, frozenset(), cascades=True)
            elif letter in ("c", "n", "d"):
                self.written(Action.UPDATE, child, frozenset(key.child_columns), cascades=True)

    def _referring(self, relation: Relation) -> tuple[ForeignKey, ...]:
        keys: dict[int, tuple[ForeignKey, ...]] | None = self.catalogue.memory.get("foreign keys by parent")
        if keys is None:
            keys = {}
            for key in self.catalogue.foreign_keys:
                keys[key.parent] = (*keys.get(key.parent, ()), key)
            self.catalogue.memory["foreign keys by parent"] = keys
        return keys.get(relation.oid, ())

    def _written_through(self, action: Action, relation: Relation, fields: frozenset[str]) -> None:
        """Writing to a view writes to what is beneath it: every base relation from which a column of it comes."""
        if not self._view_writes_through(relation):
            return
        bases: dict[tuple[str, str], set[str]] = {}
        for column in self._beneath(relation)[0]:
            for source in column.sources:
                found = bases.setdefault((source.thing.path[0], source.thing.path[1]), set())
                if column.name in fields:
                    found.add(source.field)
        if not bases:
            for thing, _ in self._beneath(relation)[1].reads:
                if thing.kind is Kind.TABLE:
                    bases.setdefault((thing.path[0], thing.path[1]), set())
        for (schema, name), names in bases.items():
            base = self.state.relation(schema, name)
            if base is not None and base.oid != relation.oid:
                self.written(action, base, frozenset(names))

    def _view_writes_through(self, relation: Relation) -> bool:
        # With INSTEAD OF triggers nothing beneath is written by the server itself, but counting it does no harm.
        return relation.definition is not None

    def truncated(self, relation: Relation, *, cascades: bool, seen: set[int]) -> None:
        """A relation is emptied, with all that refers to it where that cascades."""
        if relation.oid in seen:
            return
        seen.add(relation.oid)
        self.written(Action.TRUNCATE, relation, frozenset())
        if cascades:
            for each in (relation, *kin(self.catalogue, relation)):
                for key in self._referring(each):
                    child = self.catalogue.relation_by_oid.get(key.child)
                    if child is None:
                        self.unknown("a table that refers to this one is not known", Kind.TABLE, each.schema, each.name)
                    else:
                        self.truncated(child, cascades=True, seen=seen)

    # --- bodies of functions

    def body(self, text: str, state: State, key: object, arguments: frozenset[str], name: str) -> Touched:
        """What the statements in the body of a function do."""
        inner = type(self)(state, bodies=(*self.bodies, key), owned=True)
        inner.arguments = arguments
        inner.body_name = name
        statements = _body_statements(text)
        if statements is None:
            inner.unknown("the body of a function could not be parsed", Kind.FUNCTION, name)
            return inner.touched
        try:
            for statement in statements:
                if type(statement) is ast.ReturnStmt:
                    inner.expression(statement.returnval, Scope())
                elif type(statement) in (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt):
                    inner.use_all(inner.query(statement, Scope()), Use.COMPUTE)
                else:
                    inner.unknown(f"{type(statement).__name__} in the body of a function", Kind.FUNCTION, name)
        except TroubleError:
            inner.unknown("the body of a function could not be read", Kind.FUNCTION, name)
        return inner.touched


def _body_statements(text: str) -> list[Any] | None:
    head = text.lstrip()[:12].upper()
    if head.startswith(("BEGIN ATOMIC", "RETURN")):
        parsed = parse_body("create function f() returns int language sql " + text)
        if parsed is None or len(parsed) != 1 or parsed[0].stmt.sql_body is None:
            return None
        body = parsed[0].stmt.sql_body
        if type(body) is not tuple:
            return [body]
        found: list[Any] = []
        for item in body:
            found.extend(item if type(item) is tuple else (item,))
        return found
    parsed = parse_body(text)
    return None if parsed is None else [statement.stmt for statement in parsed]


def _names_in(tree: Any) -> set[str] | None:
    """The names of all the columns in an expression; None where it uses a whole row."""
    named: set[str] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if type(node) is ast.ColumnRef:
            if type(node.fields[-1]) is not ast.String:
                return None
            named.add(node.fields[-1].sval)
        waiting.extend(children(node))
    return named


def _has_clauses(node: Any) -> bool:
    return any((node.withClause, node.sortClause, node.limitCount, node.limitOffset, node.lockingClause))


def _has_default(source: Any) -> bool:
    if source is None:
        return True
    return type(source) is ast.SelectStmt and any(
        type(value) is ast.SetToDefault for row in source.valuesLists or () for value in row
    )


def _named(columns: list[Column], names: tuple[str, ...]) -> list[Column]:
    if not names:
        return columns
    if len(names) > len(columns):
        raise TroubleError("42P10", "more column names than columns")
    return [
        Column(names[i], c.sources, c.computed, c.plain, c.type_oid) if i < len(names) else c for i, c in enumerate(columns)
    ]


def _aliased(entry: Entry, alias: Any) -> Entry:
    if alias is None:
        return entry
    entry.name = alias.aliasname
    entry.aliased = True
    names = strings(alias.colnames or ())
    if entry.open and len(names) > len(entry.columns):
        entry.columns = [*entry.columns, *(Column(name) for name in names[len(entry.columns) :])]
    entry.columns = _named(entry.columns, names)
    return entry


def _sequence_thing(relation: Relation) -> Thing:
    return Thing(Kind.SEQUENCE, (relation.schema, relation.name))


def _unread(relation: Relation, reason: str) -> Effect:
    return unknown(reason, Kind.TABLE, relation.schema, relation.name)
