"""What an expression does: the columns it uses, the functions, operators and casts it runs.

Every node of the grammar that can stand in an expression is in a table here; whatever is not has an `unknown` effect.
Each part gives back whether its value is surely of one of the system's types, because only then can an operator or
function that a user made for a type of their own be left out of what may run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pglast.enums import A_Expr_Kind, BoolExprType, SubLinkType

from appliance.effects import Action, Kind, Scalar, Use, effect, unknown
from appliance.sql import system
from appliance.sql.catalogue import Catalogue, Function, Relation
from appliance.sql.names import State, TroubleError, types_by_oid, written_name
from appliance.sql.reading import Source
from appliance.sql.scopes import Column, Entry, Scope
from appliance.sql.touched import Touched, marked
from appliance.sql.tree import ast, children, parse_body, strings

# Nesting of the tree beyond which a text is not read: each level costs a few of the interpreter's thousand frames.
DEPTH_MAX = 120

# Bodies within bodies (views on views, functions that call functions) beyond which nothing more is read.
BODIES_MAX = 8

# Kept bodies: more than this many and the memory starts anew, because search paths, part of the key, are the client's.
_BODIES_KEPT_MAX = 5_000

_USER_OIDS = 16_384  # FirstNormalObjectId: what has a lower OID is the system's own

_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "xmax", "cmin", "cmax", "ctid"})

# Casts of a constant that leave an equality with a column an equality: no value is rounded or cut on either side.
_EXACT_TYPES = frozenset(
    {"text", "varchar", "int2", "int4", "int8", "numeric", "uuid", "date", "timestamptz", "timestamp", "bool"}
)

# Types between which a cast changes no value: text, varchar.
_TEXT_OIDS = frozenset({25, 1043})

# What the grammar calls by a keyword of its own: (since which server, node). An older server reads a call of a function.
_SINCE = {
    ast.JsonObjectConstructor: 160_000,
    ast.JsonArrayConstructor: 160_000,
    ast.JsonArrayQueryConstructor: 160_000,
    ast.JsonObjectAgg: 160_000,
    ast.JsonArrayAgg: 160_000,
    ast.JsonIsPredicate: 160_000,
    ast.JsonFuncExpr: 170_000,
    ast.JsonParseExpr: 170_000,
    ast.JsonScalarExpr: 170_000,
    ast.JsonSerializeExpr: 170_000,
    ast.MergeSupportFunc: 170_000,
}

# Nodes that run nothing of their own: what they do is what their parts do.
_TRANSPARENT = (
    ast.A_ArrayExpr,
    ast.A_Indices,
    ast.BoolExpr,
    ast.BooleanTest,
    ast.CaseWhen,
    ast.CoalesceExpr,
    ast.GroupingFunc,
    ast.GroupingSet,
    ast.JsonAggConstructor,
    ast.JsonArgument,
    ast.JsonArrayAgg,
    ast.JsonArrayConstructor,
    ast.JsonBehavior,
    ast.JsonFormat,
    ast.JsonFuncExpr,
    ast.JsonIsPredicate,
    ast.JsonKeyValue,
    ast.JsonObjectAgg,
    ast.JsonObjectConstructor,
    ast.JsonOutput,
    ast.JsonParseExpr,
    ast.JsonReturning,
    ast.JsonScalarExpr,
    ast.JsonSerializeExpr,
    ast.JsonTablePathSpec,
    ast.JsonValueExpr,
    ast.MergeSupportFunc,
    ast.MinMaxExpr,
    ast.NamedArgExpr,
    ast.NullTest,
    ast.ResTarget,
    ast.RowExpr,
    ast.WindowDef,
    ast.XmlExpr,
    ast.XmlSerialize,
    ast.MultiAssignRef,
)

# Of those, the ones whose value is of a system type whatever their parts are.
_ALWAYS_PLAIN = (
    ast.BoolExpr,
    ast.BooleanTest,
    ast.NullTest,
    ast.GroupingFunc,
    ast.JsonIsPredicate,
    ast.XmlExpr,
    ast.XmlSerialize,
)


class Expressions:
    """Reads expressions. One object reads one text; a body (of a view, of a function) is read by an object of its own."""

    def __init__(self, state: State, *, bodies: tuple[object, ...] = (), owned: bool = False) -> None:
        self.state = state
        self.catalogue: Catalogue = state.catalogue
        self.touched = Touched()
        self.parameters = 0
        self.bodies = bodies  # what of the catalogue we are inside of
        self.owned = owned  # the text is the catalogue's, not the client's
        self.arguments: frozenset[str] = frozenset()  # names of the parameters of the function whose body this is
        self.body_name: str | None = None
        self.depth = 0
        self._writes: set[tuple[object, ...]] = set()  # what of writing has been followed already

    # --- what the rooms above add

    def query(self, node: Any, scope: Scope | None) -> list[Column]:
        """The columns of a query that stands inside another."""
        raise NotImplementedError

    def body(self, text: str, state: State, key: object, arguments: frozenset[str], name: str) -> Touched:
        """What the statements in the body of a function do."""
        raise NotImplementedError

    # --- using columns

    def use(self, column: Column, use: Use) -> None:
        """That column's value is used so."""
        if column.sources:
            self._look(column.sources)
            self.touched.use(column.sources, use)
        if column.computed:
            self._look(column.computed)
            self.touched.use(column.computed, Use.COMPUTE)

    def _look(self, sources: Iterable[Source]) -> None:
        for source in sources:
            schema, *names = source.thing.path
            if schema == "pg_catalog" and not system.is_readable_column(schema, ".".join(names), source.field):
                self.unknown("this column of the system is not on the allow-list", Kind.TABLE, *source.thing.path)

    def use_all(self, columns: list[Column], use: Use) -> None:
        """All those columns' values are used so."""
        for column in columns:
            self.use(column, use)

    def trouble(self, node: Any, sqlstate: str, message: str) -> TroubleError:
        """The error that the server would answer with."""
        location = getattr(node, "location", None)
        return TroubleError(sqlstate, message, location + 1 if isinstance(location, int) and location >= 0 else 0)

    def unknown(self, reason: str, kind: Kind = Kind.STATEMENT, *path: str) -> None:
        """Something here cannot be understood."""
        self.touched.add(unknown(reason, kind, *path))

    # --- walking

    def expression(self, node: Any, scope: Scope) -> bool:
        """Everything that the value of `node` depends on is computed with. True: of a system type for sure."""
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise TroubleError("54001", "statement too complex")
        reader = READERS.get(type(node))
        if reader is None:
            self.unknown(f"{type(node).__name__} is not understood")
            plain = False
        else:
            plain = reader(self, node, scope)
        self.depth -= 1
        return plain

    def expressions(self, nodes: Any, scope: Scope) -> bool:
        """The same for a list."""
        plain = True
        for node in nodes or ():
            if type(node) is tuple:
                plain &= self.expressions(node, scope)
            elif node is not None:
                plain &= self.expression(node, scope)
        return plain

    def _transparent(self, node: Any, scope: Scope) -> bool:
        kind = type(node)
        since = _SINCE.get(kind)
        if since is not None and self.catalogue.server_version < since:
            self.unknown(f"{kind.__name__} is newer than the server")
        plain = True
        for child in children(node):
            plain &= self.expression(child, scope)
        return plain or kind in _ALWAYS_PLAIN

    def _nothing(self, node: Any, scope: Scope) -> bool:  # noqa: ARG002
        return True

    def _parameter(self, node: Any, scope: Scope) -> bool:  # noqa: ARG002
        self.parameters = max(self.parameters, node.number)
        return True

    def _current_of(self, node: Any, scope: Scope) -> bool:  # noqa: ARG002
        # The cursor's query was read when it was declared; which rows it stands on is not a column's value.
        return True

    # --- columns

    def find(self, node: Any, scope: Scope) -> Column | Entry:
        """What a reference means: a column, or something in FROM as a whole row. The caller says how it is used."""
        names = strings(node.fields)
        if len(names) == 1:
            return self._find_bare(node, names[0], scope)
        if len(names) > 4:
            raise self.trouble(node, "42601", f"improper qualified name (too many dotted names): {'.'.join(names)}")
        if len(names) == 4 and names[0] != self.catalogue.database:
            raise self.trouble(node, "0A000", f"cross-database references are not implemented: {'.'.join(names)}")
        schema = names[-3] if len(names) > 2 else None
        entry = self.entry(schema, names[-2], scope)
        if entry is None:
            if schema is None and (names[0] == self.body_name and names[1] in self.arguments):
                return Column(names[1])
            raise self.trouble(node, "42P01", f'missing FROM-clause entry for table "{names[-2]}"')
        found = _in_entry(entry, names[-1])
        if found is not None and not entry.open:
            return found
        if entry.open:
            self.use_all(entry.columns, Use.COMPUTE)
            self._maybe_calls(node, names[-1])
            return Column(names[-1])
        return self._projected(node, entry, names[-1])

    def _projected(self, node: Any, entry: Entry, name: str) -> Column:
        # `row.name` where there is no such column is `name(row)`.
        if not self.state.is_system_function(None, name) and not self.state.functions(None, name):
            raise self.trouble(node, "42703", f'column "{name}" does not exist')
        self.use_all(entry.columns, Use.COMPUTE)
        self.called(node, None, name, plain=False)
        return Column(name)

    def _find_bare(self, node: Any, name: str, scope: Scope) -> Column | Entry:
        # Where something in FROM may have other columns than those we know, everything that the name could mean instead
        # is counted as computed with, and no value is followed.
        maybe_open = False
        level: Scope | None = scope
        while level is not None:
            found: Column | None = None
            for entry in level.entries:
                if not entry.unqualified:
                    continue
                maybe_open |= entry.open
                for column in entry.columns:
                    if column.name == name:
                        if found is not None and not maybe_open:
                            raise self.trouble(node, "42702", f'column reference "{name}" is ambiguous')
                        if found is not None:
                            self.use(found, Use.COMPUTE)
                        found = column
            if found is None and name in _SYSTEM_COLUMNS:
                for entry in level.entries:
                    if entry.unqualified and entry.relation is not None:
                        found = _in_entry(entry, name)
            if found is not None:
                if not maybe_open:
                    return found
                self.use(found, Use.COMPUTE)
            level = level.parent
        whole = self.entry(None, name, scope)
        if maybe_open:
            if whole is not None:
                self.use_all(whole.columns, Use.COMPUTE)
            return Column(name)
        if whole is not None:
            return whole
        if name in self.arguments:
            return Column(name)
        raise self.trouble(node, "42703", f'column "{name}" does not exist')

    def entry(self, schema: str | None, name: str, scope: Scope) -> Entry | None:
        """What in FROM goes by that name, from the innermost level outwards."""
        level: Scope | None = scope
        while level is not None:
            for entry in level.entries:
                if not entry.qualified:
                    continue
                if schema is None:
                    if entry.name == name:
                        return entry
                elif (
                    not entry.aliased
                    and entry.relation is not None
                    and entry.relation.name == name
                    and entry.relation.schema == schema
                ):
                    return entry
            level = level.parent
        return None

    def _column(self, node: Any, scope: Scope) -> bool:
        fields = node.fields
        if type(fields[-1]) is ast.A_Star:
            if len(fields) == 1:
                for entry in scope.entries:
                    self.use_all(entry.columns, Use.COMPUTE)
                return False
            names = strings(fields[:-1])
            entry_found = self.entry(names[-2] if len(names) > 1 else None, names[-1], scope)
            if entry_found is None:
                raise self.trouble(node, "42P01", f'missing FROM-clause entry for table "{names[-1]}"')
            self.use_all(entry_found.columns, Use.COMPUTE)
            return False
        found = self.find(node, scope)
        if isinstance(found, Entry):
            self.use_all(found.columns, Use.COMPUTE)
            return False
        self.use(found, Use.COMPUTE)
        return found.plain

    def _indirection(self, node: Any, scope: Scope) -> bool:
        # `(row).column`: the column alone is used where the row is one that we know.
        parts = node.indirection
        if type(node.arg) is ast.ColumnRef and type(node.arg.fields[-1]) is not ast.A_Star and type(parts[0]) is ast.String:
            found = self.find(node.arg, scope)
            if isinstance(found, Entry):
                column = _in_entry(found, parts[0].sval)
                if column is None:
                    field = parts[0].sval
                    column = Column(field) if found.open else self._projected(node.arg, found, field)
                self.use(column, Use.COMPUTE)
            else:
                self.use(found, Use.COMPUTE)
                self._maybe_calls(node, parts[0].sval)
            rest = parts[1:]
        else:
            self.expression(node.arg, scope)
            rest = parts
        for part in rest:
            if type(part) is ast.String:
                self._maybe_calls(node, part.sval)
            elif type(part) is not ast.A_Star:
                self.expression(part, scope)
        return False

    def _maybe_calls(self, node: Any, name: str) -> None:
        # `(value).name` is a field of a composite value or a call of a function; which, depends on its type. Users'
        # functions are counted as called; the system's only where no field of a user's type is called so.
        if self.state.functions(None, name):
            self.called(node, None, name, plain=False)
        elif self.state.is_system_function(None, name) and not system.is_safe_function(name):
            self.unknown("this may be a call of a function that is not on the allow-list", Kind.FUNCTION, "pg_catalog", name)

    # --- operators

    def _operation(self, node: Any, scope: Scope) -> bool:
        # Chains of operators lean to the left, as deep as the client likes: down that side in a loop.
        spine = [node]
        while type(spine[-1].lexpr) is ast.A_Expr:
            spine.append(spine[-1].lexpr)
        plain = True
        for index in range(len(spine) - 1, -1, -1):
            part = spine[index]
            if index == len(spine) - 1 and part.lexpr is not None:
                plain = self._operand(part.lexpr, scope)
            right = True if part.rexpr is None else self._operand(part.rexpr, scope)
            plain = self.operated(part, part.kind, strings(part.name), plain=plain and right)
        return plain

    def _operand(self, node: Any, scope: Scope) -> bool:
        return self.expressions(node, scope) if type(node) is tuple else self.expression(node, scope)

    def operated(self, node: Any, kind: Any, names: tuple[str, ...], *, plain: bool) -> bool:
        """An operator is applied to operands that are, or are not, surely of system types."""
        if len(names) > 1:
            schema, name = names[-2], names[-1]
            self.operator(node, schema, name, plain=plain)
        elif kind in _BETWEEN:
            self.operator(node, None, "<=", plain=plain)
            self.operator(node, None, ">=", plain=plain)
        else:
            self.operator(node, None, names[0], plain=plain)
        return plain

    def operator(self, node: Any, schema: str | None, name: str, *, plain: bool) -> None:
        """What an operator of that name runs."""
        users = self.users_operators(schema, name, plain=plain)
        for function in users:
            self.run(function)
        if schema in (None, "pg_catalog"):
            if not system.is_safe_operator(name):
                if not users:
                    raise self.trouble(node, "42883", f"operator does not exist: {name}")
                return
            return
        if not users:
            raise self.trouble(node, "42883", f"operator does not exist: {schema}.{name}")

    def users_operators(self, schema: str | None, name: str, *, plain: bool) -> list[Function]:
        """The functions behind users' operators that this name may mean for such operands."""
        found: list[Function] = []
        for operator in self.state.operators(schema, name):
            function = self.catalogue.function_by_oid.get(operator.function)
            if function is None:
                # Behind it stands a function of the system's own (a user may give any function an operator's name).
                if not plain or schema is not None:
                    self.unknown("the function behind an operator is not known", Kind.OBJECT, operator.schema, operator.name)
                continue
            if plain and any(oid >= _USER_OIDS for oid in function.argument_types):
                continue
            found.append(function)
        return found

    # --- calls

    def _call(self, node: Any, scope: Scope) -> bool:
        return self.call(node, scope)

    def call(self, node: Any, scope: Scope) -> bool:
        """A call of a function by its name, with its arguments."""
        names = strings(node.funcname)
        if len(names) > 3 or (len(names) == 3 and names[0] != self.catalogue.database):
            raise self.trouble(node, "0A000", f"cross-database references are not implemented: {'.'.join(names)}")
        name = names[-1]
        schema = names[-2] if len(names) > 1 else None
        plain = self.expressions(node.args, scope)
        for order in node.agg_order or ():
            self.sorted(order, scope)
        if node.agg_filter is not None:
            self.expression(node.agg_filter, scope)
        if node.over is not None:
            self.window(node.over, scope)
        if schema in (None, "pg_catalog"):
            special = _SPECIAL.get(name)
            if special is not None and not self.state.functions(schema, name):
                special(self, node, scope)
                return plain
        if name == "json_object" and schema == "pg_catalog" and self.catalogue.server_version < 160_000:
            # The grammar writes this name in full itself; to an older server it is a name like any other.
            schema = None
        if name == "system_user" and schema == "pg_catalog" and self.catalogue.server_version < 160_000:
            self.unknown("SYSTEM_USER is newer than the server, which takes it for a column")
        return self.called(node, schema, name, plain=plain)

    def called(self, node: Any, schema: str | None, name: str, *, plain: bool) -> bool:
        """A function of that name is called with arguments that are, or are not, surely of system types."""
        users = self.state.functions(schema, name)
        builtin = self.state.is_system_function(schema, name)
        if builtin:
            if plain and users:
                users = tuple(f for f in users if not any(oid >= _USER_OIDS for oid in f.argument_types))
            if not self.state.is_safe_function(schema, name):
                self.unknown(
                    "this function of the system is not on the allow-list", Kind.FUNCTION, schema or "pg_catalog", name
                )
        for function in users:
            self.run(function)
        if builtin and not users:
            return plain
        if not builtin and not users:
            self._not_a_function(node, schema, name)
        return False

    def _not_a_function(self, node: Any, schema: str | None, name: str) -> None:
        # With one argument it may still be a cast (`text(x)`) or a column (`name(row)`).
        if type(node) is ast.FuncCall and len(node.args or ()) == 1:
            if schema in (None, "pg_catalog") and system.is_safe_type(name):
                return
            user_type = self.state.type(schema, name)
            if user_type is not None:
                self.type_runs(user_type.oid)
                return
            if schema is None and type(node.args[0]) is ast.ColumnRef:
                return  # All of the row is computed with already; if there is no such column the server says so.
        if name == self.body_name and self.bodies:
            return
        full = name if schema is None else f"{schema}.{name}"
        raise self.trouble(node, "42883", f"function {full} does not exist")

    def run(self, function: Function) -> None:
        """That user's function runs: it is called, and where its body can be read, that is done too."""
        touched = self._body_of(function)
        marks: dict[str, Scalar] = {
            "language": function.language,
            "volatility": function.volatility,
            "opaque": touched is None,
        }
        if function.extension is not None:
            marks["extension"] = function.extension
        self.touched.add(marked(Action.CALL, Kind.FUNCTION, (function.schema, function.name), marks))
        if touched is not None:
            self.touched.take_computed(touched)
        for text in function.argument_defaults:
            self.owned_expression(text, None)

    def _body_of(self, function: Function) -> Touched | None:
        """What the body of a function does; None where that cannot be read."""
        if function.extension is not None and function.language in ("c", "internal"):
            return Touched() if system.is_safe_extension_function(function.extension, function.name) else None
        if function.language != "sql" or function.source is None or function.kind not in ("f", "p"):
            return None
        if function.oid in self.bodies or len(self.bodies) >= BODIES_MAX:
            return None
        path = self.state.path
        for setting in function.settings:
            name, _, value = setting.partition("=")
            if name != "search_path":
                if system.setting_class(name) != "harmless":
                    return None
                continue
            parts = [written_name(part) for part in value.split(",")] if value.strip() not in ("", '""') else []
            if any(part is None or part[0] is not None for part in parts):
                return None
            path = tuple(part[1] for part in parts if part is not None)
        key = ("function", function.oid, path)
        memory = self.catalogue.memory
        # With tables that only this session has, names in the body may mean something else.
        may_keep = not self.state.made
        if may_keep and key in memory:
            kept: Touched | None = memory[key]
            return kept
        state = self.state.copy()
        state.path = path
        touched = self.body(function.source, state, function.oid, frozenset(function.argument_names), function.name)
        if may_keep and (touched.is_clear() or not self.bodies):
            if len(memory) > _BODIES_KEPT_MAX:
                memory.clear()
            memory[key] = touched
        return touched

    def run_by_oid(self, oid: int) -> None:
        """The same for a function that the catalogue names by its OID."""
        function = self.catalogue.function_by_oid.get(oid)
        if function is not None:
            self.run(function)
        elif oid >= _USER_OIDS or not oid:
            self.unknown("a function that runs here is not known", Kind.FUNCTION, str(oid))

    def owned_expression(self, text: str, relation: Relation | None) -> None:
        """An expression of a table's or a type's own definition (a default, a check, a policy) is evaluated."""
        key = ("expression", text, relation.oid if relation is not None else 0)
        memory = self.catalogue.memory
        may_keep = relation is None or self.is_lasting(relation)
        touched: Touched | None = memory.get(key) if may_keep else None
        if touched is None:
            touched = self.owned_reading(text, relation)
            if may_keep and (touched.is_clear() or not self.bodies):
                memory[key] = touched
        self.touched.take_computed(touched)

    def is_lasting(self, relation: Relation) -> bool:
        """Whether a relation is as the catalogue has it, so that what is worked out of it may be kept."""
        return self.catalogue.relation_by_oid.get(relation.oid) is relation

    def owned_reading(self, text: str, relation: Relation | None) -> Touched:
        """What evaluating an expression of the catalogue's does."""
        if len(self.bodies) >= BODIES_MAX:
            deep = Touched()
            deep.add(unknown("definitions are nested too deeply"))
            return deep
        state = self.state.copy()
        state.path = ()
        inner = type(self)(state, bodies=(*self.bodies, text), owned=True)
        columns = (
            [Column(column.name, plain=column.type_oid < _USER_OIDS) for column in relation.columns] if relation else []
        )
        scope = Scope(entries=[Entry(relation.name, columns, relation=relation, aliased=False)] if relation else [])
        inner.arguments = frozenset({"value"})  # a domain's check names its value so
        statements = parse_body("select " + text)
        targets = statements[0].stmt.targetList if statements is not None and len(statements) == 1 else None
        if not targets:
            inner.unknown("an expression of a definition could not be parsed")
            return inner.touched
        try:
            # The server prints several of them (an index's, the defaults of arguments) as one list.
            for target in targets:
                inner.expression(target.val, scope)
        except TroubleError as trouble:
            inner.unknown(f"an expression of a definition could not be read: {trouble.problem.sqlstate}")
        return inner.touched

    # --- functions of the system that mean something of their own

    def _set_config(self, node: Any, scope: Scope) -> None:
        name, value = _text_argument(node, 0), _text_argument(node, 1)
        if name is None:
            name = self.only_setting(node.args[0], scope) if node.args else None
        harmless = name is not None and system.setting_class(name) == "harmless"
        if harmless and value is None and len(node.args or ()) > 1 and type(node.args[1]) is ast.ParamRef:
            value = ""  # harmless with any value
        if name is None or value is None or len(node.args or ()) != 3:
            self.unknown("set_config with a name or value that is not a constant", Kind.FUNCTION, "pg_catalog", "set_config")
            return
        kind = system.setting_class(name)
        if kind == "harmless" or (kind == "pinned" and value.lower() in system.PINNED[name.lower()]):
            self.touched.add(effect(Action.CONNECT, Kind.SETTING, name.lower()))
        elif kind == "search_path":
            self.set_path_by_call(node, value)
        elif kind == "role":
            self.touched.add(effect(Action.ADMIN, Kind.SETTING, "role"))
            self.unknown("the role is changed inside a query")
        else:
            self.touched.add(effect(Action.ADMIN, Kind.SETTING, name.lower()))

    def only_setting(self, node: Any, scope: Scope) -> str | None:  # noqa: ARG002
        """The name of the one setting that a reference to pg_settings.name can show; None where that cannot be told."""
        return None

    def set_path_by_call(self, node: Any, value: str) -> None:  # noqa: ARG002
        """The search path is changed by a call inside a query."""
        self.unknown("the search path is changed inside a query", Kind.FUNCTION, "pg_catalog", "set_config")

    def _current_setting(self, node: Any, scope: Scope) -> None:
        if node.args and self._names_listed_setting(node.args[0], scope):
            return
        name = _text_argument(node, 0)
        if name is None or not system.is_readable_setting(name):
            self.unknown("this setting may hold anything", Kind.FUNCTION, "pg_catalog", "current_setting")

    def _names_listed_setting(self, node: Any, scope: Scope) -> bool:
        """Whether this is pg_settings.name, whose rows leave settings that users made up out."""
        if type(node) is not ast.ColumnRef or type(node.fields[-1]) is not ast.String:
            return False
        found = self.find(node, scope)
        return isinstance(found, Column) and any(
            entry.relation is not None
            and (entry.relation.schema, entry.relation.name) == ("pg_catalog", "pg_settings")
            and any(column is found for column in entry.columns)
            and {source.field for source in found.sources} == {"name"}
            for entry in scope.entries
        )

    def _sequence(self, node: Any, scope: Scope) -> None:  # noqa: ARG002
        function = node.funcname[-1].sval
        if self.owned:
            return  # A default's own sequence is part of inserting a row.
        argument: Any = node.args[0] if node.args else None
        while type(argument) is ast.TypeCast:
            argument = argument.arg
        text = _constant_text(argument)
        found = written_name(text) if text is not None else None
        if found is None:
            self.unknown("which sequence this is about is not a constant", Kind.FUNCTION, "pg_catalog", function)
            return
        relation = self.state.relation(*found)
        if relation is None:
            raise self.trouble(node, "42P01", f'relation "{text}" does not exist')
        action = Action.READ if function in ("currval", "pg_sequence_last_value") else Action.UPDATE
        self.touched.add(effect(action, Kind.SEQUENCE, relation.schema, relation.name))

    def _notify(self, node: Any, scope: Scope) -> None:  # noqa: ARG002
        channel = _text_argument(node, 0)
        if channel is None:
            self.unknown("which channel is notified is not a constant", Kind.FUNCTION, "pg_catalog", "pg_notify")
            return
        self.touched.add(effect(Action.PUBLISH, Kind.CHANNEL, channel))

    # --- types and casts

    def _cast(self, node: Any, scope: Scope) -> bool:
        plain = self.expression(node.arg, scope)
        target = self.type_name(node.typeName, scope)
        if not (plain and target) and self.catalogue.casts:
            for oid in self.catalogue.casts:
                self.run_by_oid(oid)
        return target

    def _type(self, node: Any, scope: Scope) -> bool:
        return self.type_name(node, scope)

    def type_name(self, node: Any, scope: Scope | None) -> bool:
        """A type is named. What users' code it runs when values of it are made is counted. True: a type of the system's."""
        if node.typmods:
            self.expressions(node.typmods, scope if scope is not None else Scope())
        if node.pct_type:
            self.unknown("a type named after a column")
            return False
        names = strings(node.names)
        if len(names) > 3 or (len(names) == 3 and names[0] != self.catalogue.database):
            raise self.trouble(node, "0A000", f"cross-database references are not implemented: {'.'.join(names)}")
        schema, name = (names[-2] if len(names) > 1 else None), names[-1]
        safe = schema in (None, "pg_catalog") and system.is_safe_type(name)
        if safe and (schema is not None or self.state.system_first):
            return True
        found = self.state.type(schema, name)
        if found is None and name.startswith("_"):
            found = self.state.type(schema, name[1:])
        if found is not None:
            self.type_runs(found.oid)
            return False
        relation = self.state.relation(schema, name)
        if relation is not None and schema not in ("pg_catalog", "information_schema"):
            for column in relation.columns:
                if column.type_oid >= _USER_OIDS:
                    self.type_runs(column.type_oid)
            return False
        if safe:
            return True
        if schema in ("pg_catalog", "information_schema") or (schema is None and relation is not None):
            self.unknown("this type is not on the allow-list", Kind.TYPE, schema or "pg_catalog", name)
            return False
        raise self.trouble(node, "42704", f'type "{".".join(names)}" does not exist')

    def type_runs(self, oid: int) -> None:
        """A value of that user's type is made, read or checked."""
        key = ("type", oid)
        if key in self.bodies:
            return
        found = types_by_oid(self.catalogue).get(oid)
        if found is None:
            return
        for function in found.functions:
            self.run_by_oid(function)
        for text in found.expressions:
            self.owned_expression(text, None)

    # --- queries inside expressions

    def _sublink(self, node: Any, scope: Scope) -> bool:
        plain = True
        if node.testexpr is not None:
            plain = self.expression(node.testexpr, scope)
        columns = self.query(node.subselect, scope)
        if node.subLinkType == SubLinkType.EXISTS_SUBLINK:
            self.use_all(columns, Use.OUTPUT)
            return True
        self.use_all(columns, Use.COMPUTE)
        plain = plain and all(column.plain for column in columns)
        if node.subLinkType in (SubLinkType.ANY_SUBLINK, SubLinkType.ALL_SUBLINK):
            names = strings(node.operName) if node.operName else ("=",)
            self.operator(node, names[-2] if len(names) > 1 else None, names[-1], plain=plain)
            return True
        return plain

    def _case(self, node: Any, scope: Scope) -> bool:
        plain = True
        for child in children(node):
            plain &= self.expression(child, scope)
        if node.arg is not None:
            self.operator(node, None, "=", plain=plain)
        return plain

    def _collation(self, node: Any, scope: Scope) -> bool:
        return node.arg is None or self.expression(node.arg, scope)

    def _sort(self, node: Any, scope: Scope) -> bool:
        self.sorted(node, scope)
        return True

    def sorted(self, node: Any, scope: Scope) -> None:
        """Values are ordered by an expression."""
        plain = self.expression(node.node, scope)
        if node.useOp:
            names = strings(node.useOp)
            self.operator(node, names[-2] if len(names) > 1 else None, names[-1], plain=plain)

    def window(self, node: Any, scope: Scope) -> None:
        """A window is defined or referred to."""
        self._transparent(node, scope)

    # --- conditions

    def condition(self, node: Any, scope: Scope) -> None:
        """A condition under which rows are kept. A column that is tested for equality with a constant or for being NULL is
        compared; everything else in it is computed with. Several such tests tell no more than each of them would."""
        waiting = [node]
        while waiting:
            part = waiting.pop()
            if type(part) is ast.BoolExpr and part.boolop != BoolExprType.NOT_EXPR:
                waiting.extend(part.args)
                continue
            column = self._compared(part, scope)
            if column is not None:
                self.use(column, Use.COMPARE)
            else:
                self.expression(part, scope)

    def uncast(self, node: Any, scope: Scope) -> Any:
        """The reference to a text column under casts to text, which leave its values as they are; else the node itself."""
        inner = node
        while type(inner) is ast.TypeCast:
            names = strings(inner.typeName.names)
            if inner.typeName.typmods or inner.typeName.arrayBounds or names[-1] not in ("text", "varchar"):
                return node
            if names[:-1] != ("pg_catalog",) and not (len(names) == 1 and self.state.system_first):
                return node
            inner = inner.arg
        if type(inner) is not ast.ColumnRef or type(inner.fields[-1]) is ast.A_Star:
            return node
        found = self.find(inner, scope)
        return inner if isinstance(found, Column) and found.plain and found.type_oid in _TEXT_OIDS else node

    def _compared(self, node: Any, scope: Scope) -> Column | None:
        if type(node) is ast.NullTest and type(node.arg) is ast.ColumnRef and not self.owned:
            tested = None if type(node.arg.fields[-1]) is ast.A_Star else self.find(node.arg, scope)
            return tested if isinstance(tested, Column) else None
        if type(node) is not ast.A_Expr or node.kind not in _EQUALITIES or self.owned:
            return None
        names = strings(node.name)
        if names not in (("=",), ("pg_catalog", "=")):
            return None
        left, right = self.uncast(node.lexpr, scope), node.rexpr
        if type(left) is not ast.ColumnRef and node.kind == A_Expr_Kind.AEXPR_OP:
            left, right = self.uncast(right, scope), left
        if type(left) is not ast.ColumnRef or type(left.fields[-1]) is ast.A_Star:
            return None
        constants = right if type(right) is tuple else (right,)
        if not all(_is_constant(item, arrays=node.kind == A_Expr_Kind.AEXPR_OP_ANY) for item in constants):
            return None
        found = self.find(left, scope)
        if isinstance(found, Entry):
            return None
        if (len(names) == 1 and self.state.operators(None, "=") and self.users_operators(None, "=", plain=found.plain)) or (
            not found.plain and self.state.operators(None, "=")
        ):
            return None
        for item in constants:
            self.expression(item, scope)
        return found


def _in_entry(entry: Entry, name: str) -> Column | None:
    for column in entry.columns:
        if column.name == name:
            return column
    if name in _SYSTEM_COLUMNS and entry.relation is not None:
        return Column(name, plain=True)
    return None


def _is_constant(node: Any, *, arrays: bool) -> bool:
    kind = type(node)
    if kind in (ast.A_Const, ast.ParamRef):
        return True
    if kind is ast.A_ArrayExpr and arrays:
        return all(_is_constant(item, arrays=False) for item in node.elements or ())
    if kind is ast.TypeCast and (arrays or not node.typeName.arrayBounds):
        names = strings(node.typeName.names)
        exact = names[-1] in _EXACT_TYPES and names[:-1] in ((), ("pg_catalog",)) and not node.typeName.typmods
        return exact and _is_constant(node.arg, arrays=arrays)
    return False


def _constant_text(node: Any) -> str | None:
    if type(node) is ast.A_Const and type(node.val) is ast.String:
        text: str = node.val.sval
        return text
    return None


def _text_argument(node: Any, index: int) -> str | None:
    arguments = node.args or ()
    if index >= len(arguments):
        return None
    argument = arguments[index]
    if type(argument) is ast.TypeCast and strings(argument.typeName.names)[-1] in ("text", "varchar"):
        argument = argument.arg
    return _constant_text(argument)


_EQUALITIES = frozenset({A_Expr_Kind.AEXPR_OP, A_Expr_Kind.AEXPR_IN, A_Expr_Kind.AEXPR_OP_ANY})

_BETWEEN = frozenset(
    {
        A_Expr_Kind.AEXPR_BETWEEN,
        A_Expr_Kind.AEXPR_NOT_BETWEEN,
        A_Expr_Kind.AEXPR_BETWEEN_SYM,
        A_Expr_Kind.AEXPR_NOT_BETWEEN_SYM,
    }
)

_Special = Callable[[Expressions, Any, Scope], None]

_SPECIAL: dict[str, _Special] = {
    "set_config": Expressions._set_config,
    "current_setting": Expressions._current_setting,
    "nextval": Expressions._sequence,
    "setval": Expressions._sequence,
    "currval": Expressions._sequence,
    "pg_sequence_last_value": Expressions._sequence,
    "pg_notify": Expressions._notify,
}

_ReaderOf = Callable[[Expressions, Any, Scope], bool]

READERS: dict[type[Any], _ReaderOf] = dict.fromkeys(_TRANSPARENT, Expressions._transparent) | {
    ast.A_Const: Expressions._nothing,
    ast.String: Expressions._nothing,
    ast.Integer: Expressions._nothing,
    ast.Float: Expressions._nothing,
    ast.Boolean: Expressions._nothing,
    ast.BitString: Expressions._nothing,
    ast.SetToDefault: Expressions._nothing,
    ast.SQLValueFunction: Expressions._nothing,
    ast.CurrentOfExpr: Expressions._current_of,
    ast.ParamRef: Expressions._parameter,
    ast.ColumnRef: Expressions._column,
    ast.A_Indirection: Expressions._indirection,
    ast.A_Expr: Expressions._operation,
    ast.FuncCall: Expressions._call,
    ast.TypeCast: Expressions._cast,
    ast.TypeName: Expressions._type,
    ast.SubLink: Expressions._sublink,
    ast.CaseExpr: Expressions._case,
    ast.CollateClause: Expressions._collation,
    ast.SortBy: Expressions._sort,
}
