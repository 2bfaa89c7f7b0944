"""What a whole statement does: queries, and every command that is no query."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pglast.enums import (
    A_Expr_Kind,
    DefElemAction,
    DiscardMode,
    FetchDirection,
    ObjectType,
    TransactionStmtKind,
    VariableSetKind,
)
from pglast.parser import scan

from appliance.effects import Action, Effect, Kind, Scalar, Thing, Use, effect
from appliance.sql import system
from appliance.sql.definitions import Definitions, Found
from appliance.sql.names import TEMPORARY, TroubleError, kin, types_by_oid, written_name
from appliance.sql.reading import (
    ChangeCatalogue,
    Deallocate,
    DeclareCursor,
    DiscardAll,
    Output,
    Prepare,
    SetSearchPath,
    Transaction,
)
from appliance.sql.scopes import Column, Scope
from appliance.sql.touched import Touched, marked
from appliance.sql.tree import ast, parse_body, strings

FIRST_USERS_OID = 16_384  # FirstNormalObjectId

_CURSOR_BINARY = 0x0001  # parsenodes.h
_CURSOR_HOLD = 0x0020

_TRANSACTIONS = {
    TransactionStmtKind.TRANS_STMT_BEGIN: "begin",
    TransactionStmtKind.TRANS_STMT_START: "begin",
    TransactionStmtKind.TRANS_STMT_COMMIT: "commit",
    TransactionStmtKind.TRANS_STMT_ROLLBACK: "rollback",
    TransactionStmtKind.TRANS_STMT_SAVEPOINT: "savepoint",
    TransactionStmtKind.TRANS_STMT_RELEASE: "release",
    TransactionStmtKind.TRANS_STMT_ROLLBACK_TO: "rollback to",
}

_LOCK_MODES = {
    1: "ACCESS SHARE",
    2: "ROW SHARE",
    3: "ROW EXCLUSIVE",
    4: "SHARE UPDATE EXCLUSIVE",
    5: "SHARE",
    6: "SHARE ROW EXCLUSIVE",
    7: "EXCLUSIVE",
    8: "ACCESS EXCLUSIVE",
}

# What EXPLAIN takes, by the node of the statement inside.
_EXPLAINED = (
    ast.SelectStmt,
    ast.InsertStmt,
    ast.UpdateStmt,
    ast.DeleteStmt,
    ast.MergeStmt,
    ast.DeclareCursorStmt,
    ast.CreateTableAsStmt,
    ast.RefreshMatViewStmt,
    ast.ExecuteStmt,
)

# What PREPARE takes.
_PREPARABLE = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)

# What may stand between and around values that are copied, so that a value inside still looks like what it is: a digit for
# a quote would be doubled inside every card number, a hyphen for a delimiter would get a backslash.
_COPY_MARKS = {
    "delimiter": frozenset("\t,;|\x01\x02\x03\x1c\x1d\x1e\x1f"),
    "quote": frozenset("\"'"),
    "escape": frozenset("\"'\\"),
}

# Prepared statements that run prepared statements do not exist; EXPLAIN EXECUTE and CREATE TABLE AS EXECUTE nest once.
_NESTED_MAX = 3


class Commands(Definitions):
    """Reads any statement."""

    text = ""  # of the statement that is being read
    nested = 0
    into: Any = None  # the SELECT whose INTO is allowed
    path_set: SetSearchPath | None = None

    def command(self, node: Any, text: str) -> Found:
        """What one statement does; `text` is its part of the whole. Effects go to `touched`."""
        self.text = text
        reader = COMMANDS.get(type(node))
        if reader is None:
            self.unknown(f"{type(node).__name__} is not understood")
            return Found()
        found = reader(self, node)
        if self.catalogue.casts:
            self._casts()
        return found

    def _casts(self) -> None:
        """Users' casts that nobody wrote may run where a value meets another type: every one that fits the users' types of
        the columns that are computed with or written, and every one between two types of the system's."""
        if not self.touched.reads and not self.touched.effects:
            return
        used: set[int] = set()
        for (thing, use), fields in list(self.touched.reads.items()):
            if use in (Use.COMPUTE, Use.COMPARE):
                used |= self._users_types(thing, fields)
        for each in self.touched.effects:
            if each.action in (Action.INSERT, Action.UPDATE):
                used |= self._users_types(each.thing, each.fields)
        types = types_by_oid(self.catalogue)
        # Of what is made of other types, and of what a function answers, any part may be cast.
        is_open = any(each.action is Action.CALL for each in self.touched.effects) or any(
            oid not in types or types[oid].kind not in "er" for oid in used
        )
        ends = self.catalogue.cast_ends or tuple((oid, 0, 0) for oid in self.catalogue.casts)
        for function, source, target in ends:
            if is_open or source in used or target in used or max(source, target) < FIRST_USERS_OID:
                self.run_by_oid(function)

    def _users_types(self, thing: Thing, fields: Iterable[str]) -> set[int]:
        relation = self.state.relation(thing.path[0], thing.path[1]) if len(thing.path) == 2 else None
        if relation is None:
            return set()
        wanted = set(fields)
        return {c.type_oid for c in relation.columns if c.name in wanted and c.type_oid >= FIRST_USERS_OID}

    # --- queries

    def may_store(self, node: Any) -> bool:
        return node is self.into

    def _select(self, node: Any) -> Found:
        first = node
        while first.larg is not None:
            first = first.larg
        if first.intoClause is not None:
            self.into = first
            found = self.select_into(node, first.intoClause)
            self.into = None
            return found
        if _is_path_call(node):
            return self._path_by_select(node)
        self._setting_name = _sought_setting(node)
        return Found(outputs=self._outputs(self.select(node, None)))

    def _outputs_or_none(self, columns: list[Column] | None) -> tuple[Output, ...] | None:
        if columns is None:
            return None
        self.use_all(columns, Use.OUTPUT)
        return tuple(Output(column.name, column.sources) for column in columns)

    def _outputs(self, columns: list[Column]) -> tuple[Output, ...]:
        return self._outputs_or_none(columns) or ()

    def _insert(self, node: Any) -> Found:
        return Found(outputs=self._outputs_or_none(self.insert(node, None)))

    def _update(self, node: Any) -> Found:
        return Found(outputs=self._outputs_or_none(self.update(node, None)))

    def _delete(self, node: Any) -> Found:
        return Found(outputs=self._outputs_or_none(self.delete(node, None)))

    def _merge(self, node: Any) -> Found:
        return Found(outputs=self._outputs_or_none(self.merge(node, None)))

    # --- settings

    _setting_name: str | None = None

    def only_setting(self, node: Any, scope: Scope) -> str | None:
        return self._setting_name if self._names_listed_setting(node, scope) else None

    def _path_by_select(self, node: Any) -> Found:
        call = node.targetList[0].val
        value, local = call.args[1], call.args[2]
        change = self._path(_written_path(value.val.sval), local=bool(local.val.boolval))
        name = node.targetList[0].name or "set_config"
        return Found(outputs=(Output(name),), change=change)

    def _path(self, parts: tuple[str, ...] | None, *, local: bool) -> SetSearchPath | None:
        if parts is None:
            self.unknown("this search path cannot be read", Kind.SETTING, "search_path")
            return None
        self.touched.add(effect(Action.CONNECT, Kind.SETTING, "search_path"))
        role = self.catalogue.role
        path: list[str] = []
        for part in parts:
            if part != "$user":
                path.append(part)
            elif role in self.catalogue.schemas:
                path.append(role)
        return SetSearchPath(tuple(path), local)

    def _set_variable(self, node: Any) -> Found:
        kind = node.kind
        if kind == VariableSetKind.VAR_RESET_ALL:
            self.touched.add(effect(Action.CONNECT, Kind.SETTING, "all"))
            return Found(change=SetSearchPath(None))
        name = (node.name or "").lower()
        if kind == VariableSetKind.VAR_SET_MULTI:
            if name in ("transaction", "session characteristics"):
                self.touched.add(effect(Action.CONNECT, Kind.SESSION, "transaction"))
            else:
                self.unknown("this SET is not understood")  # SET TRANSACTION SNAPSHOT
            return Found()
        sort = system.setting_class(name)
        back = kind in (VariableSetKind.VAR_SET_DEFAULT, VariableSetKind.VAR_RESET)
        if sort == "search_path":
            if back:
                self.touched.add(effect(Action.CONNECT, Kind.SETTING, "search_path"))
                return Found(change=SetSearchPath(None, bool(node.is_local)))
            if kind != VariableSetKind.VAR_SET_VALUE:
                self.unknown("SET … FROM CURRENT outside a function")
                return Found()
            parts = [_setting_text(argument) for argument in node.args]
            known = None if None in parts else tuple(part for part in parts if part is not None)
            return Found(change=self._path(known, local=bool(node.is_local)))
        if sort == "role":
            self.touched.add(effect(Action.ADMIN, Kind.SETTING, "role"))
            self.poison = True
        elif sort == "harmless":
            self.touched.add(effect(Action.CONNECT, Kind.SETTING, name))
        elif sort == "pinned":
            # To put one back is no better than to set it: a role's or a database's default may be anything.
            values = [_setting_text(argument) for argument in node.args or ()]
            value = values[0] if len(values) == 1 else None
            if not back and value is not None and value.lower() in system.PINNED[name]:
                self.touched.add(effect(Action.CONNECT, Kind.SETTING, name))
            else:
                self.unknown("this setting is pinned", Kind.SETTING, name)
        else:
            self.touched.add(effect(Action.ADMIN, Kind.SETTING, name))
            self.poison = True
        return Found(sensitive=sort == "other")

    poison = False  # what follows in the same text means something else than we can tell

    def _show(self, node: Any) -> Found:
        name = (node.name or "").lower()
        if name == "all" or not system.is_readable_setting(name):
            self.unknown("this setting may hold anything", Kind.SETTING, name)
        else:
            self.touched.add(effect(Action.READ, Kind.SETTING, name))
        width = 3 if name == "all" else 1
        return Found(outputs=tuple(Output(name) for _ in range(width)))

    # --- the session

    def _transaction(self, node: Any) -> Found:
        sort = _TRANSACTIONS.get(node.kind)
        if sort is None:
            # Two-phase commit: the transaction outlives the session.
            self.touched.add(effect(Action.ADMIN, Kind.SESSION, "prepared transaction"))
            self.unknown("two-phase commit")
            return Found()
        self.touched.add(effect(Action.CONNECT, Kind.SESSION, "transaction"))
        return Found(change=Transaction(sort, node.savepoint_name, bool(node.chain)))

    def _constraints(self, node: Any) -> Found:  # noqa: ARG002
        self.touched.add(effect(Action.CONNECT, Kind.SESSION, "transaction"))
        return Found()

    def _prepare(self, node: Any) -> Found:
        inner = _inner_text(self.text)
        again = parse_body(inner) if inner is not None else None
        # The text that is kept has to be the very statement that the server keeps.
        if inner is None or again is None or len(again) != 1 or again[0].stmt != node.query:
            self.unknown("the statement inside PREPARE could not be cut out")
            return Found()
        if type(node.query) not in _PREPARABLE:
            self.unknown("this cannot be prepared")
        for argument in node.argtypes or ():
            self.type_name(argument, None)
        self.touched.add(effect(Action.CONNECT, Kind.SESSION, "prepared"))
        types = tuple(".".join(strings(argument.names)) for argument in node.argtypes or ())
        return Found(change=Prepare(node.name, inner, types))

    def _execute(self, node: Any) -> Found:
        text = self.state.prepared.get(node.name)
        if text is None:
            raise TroubleError("26000", f'prepared statement "{node.name}" does not exist')
        if self.nested >= _NESTED_MAX:
            raise TroubleError("54001", "statement too complex")
        self.expressions(node.params, Scope())
        statements = parse_body(text)
        if statements is None or len(statements) > 1:
            self.unknown("the prepared statement could not be parsed")
            return Found()
        if not statements:
            return Found()
        inner = type(self)(self.state)
        inner.nested = self.nested + 1
        inner.touched = self.touched
        return inner.command(statements[0].stmt, text)

    def _deallocate(self, node: Any) -> Found:
        self.touched.add(effect(Action.CONNECT, Kind.SESSION, "prepared"))
        return Found(change=Deallocate(None if node.isall else node.name))

    def _discard(self, node: Any) -> Found:
        self.touched.add(effect(Action.CONNECT, Kind.SESSION, "discard"))
        if node.target == DiscardMode.DISCARD_ALL:
            return Found(change=DiscardAll())
        if node.target == DiscardMode.DISCARD_TEMP:
            gone = tuple(key for key in self.state.made if key[0] == TEMPORARY)
            return Found(change=ChangeCatalogue(dropped=gone))
        return Found()

    def _declare(self, node: Any) -> Found:
        if node.options & _CURSOR_BINARY:
            self.unknown("a binary cursor")
        if type(node.query) is not ast.SelectStmt:
            self.unknown("this cannot be declared as a cursor")
            return Found()
        outputs = self._outputs(self.select(node.query, None))
        self.touched.add(effect(Action.CONNECT, Kind.SESSION, "cursor"))
        return Found(change=DeclareCursor(node.portalname, outputs, bool(node.options & _CURSOR_HOLD)))

    def _fetch(self, node: Any) -> Found:
        outputs = self.state.cursors.get(node.portalname)
        if outputs is None:
            raise TroubleError("34000", f'cursor "{node.portalname}" does not exist')
        if node.direction not in tuple(FetchDirection):
            self.unknown("this direction is not understood")
        self.touched.add(effect(Action.CONNECT, Kind.SESSION, "cursor"))
        for output in outputs:
            self.touched.use(output.sources, Use.OUTPUT)
        return Found(outputs=None if node.ismove else outputs)

    def _close(self, node: Any) -> Found:  # noqa: ARG002
        self.touched.add(effect(Action.CONNECT, Kind.SESSION, "cursor"))
        return Found()

    def _explain(self, node: Any) -> Found:
        if type(node.query) not in _EXPLAINED:
            self.unknown("this cannot be explained")
            return Found(outputs=(Output("QUERY PLAN"),))
        runs = False
        for option in node.options or ():
            if option.defname == "analyze":
                runs = _truth(option)
        if runs:
            found = self.command(node.query, self.text)
            return Found(outputs=(Output("QUERY PLAN"),), change=found.change)
        outside, self.touched = self.touched, Touched()
        try:
            self.command(node.query, self.text)
        finally:
            inside, self.touched = self.touched, outside
        self._planned(inside)
        return Found(outputs=(Output("QUERY PLAN"),))

    def _planned(self, inside: Touched) -> None:
        """What was to be done is only planned: every write becomes a look at its target."""
        for (thing, use), fields in inside.reads.items():
            if use is Use.OUTPUT or use is None:
                self.touched.scan(thing)
            else:
                self.touched.reads.setdefault((thing, use), set()).update(fields)
        for each in inside.effects:
            if each.action in (Action.CALL, Action.UNKNOWN, Action.READ):
                self.touched.add(each)
            elif each.thing.kind is Kind.TABLE:
                self.touched.add(effect(Action.READ, Kind.TABLE, *each.thing.path, explain=True))
            elif each.thing.kind is not Kind.SESSION:
                self.touched.add(each)

    # --- COPY

    def _copy(self, node: Any) -> Found:
        binary, odd = False, False
        for option in node.options or ():
            value = getattr(option.arg, "sval", None)
            if option.defname == "format" and (value or "").lower() == "binary":
                binary = True
            elif option.defname in _COPY_MARKS:
                odd |= value not in _COPY_MARKS[option.defname]
            elif option.defname == "encoding":
                odd |= (value or "").lower() not in ("utf8", "utf-8", "unicode")
        outside, self.touched = self.touched, Touched()
        try:
            self._copied(node)
        finally:
            inside, self.touched = self.touched, outside
        # Marked so that whoever refuses can say why: a masked column can't leave by COPY.
        for each in inside.finished():
            if each.action is Action.READ and not each.attributes and not node.is_from:
                marks: tuple[tuple[str, Scalar], ...] = (("copy", True),)
                self.touched.add(Effect(each.action, each.thing, each.fields, each.use, marks))
            else:
                self.touched.add(each)
        if node.is_program:
            self.touched.add(effect(Action.EXEC, Kind.PROGRAM, node.filename or ""))
        elif node.filename is not None:
            action = Action.UPLOAD if node.is_from else Action.DOWNLOAD
            self.touched.add(effect(action, Kind.FILE, node.filename))
            self.touched.add(effect(Action.ADMIN, Kind.FILE, node.filename))
        else:
            return Found(copies="in" if node.is_from else "out", copies_binary=binary, copies_oddly=odd)
        return Found()

    def _copied(self, node: Any) -> None:
        if node.query is not None:
            columns = self.query(node.query, Scope())
            self.use_all(columns, Use.COMPUTE)
            return
        relation = self.relation(node.relation)
        names = frozenset(strings(node.attlist or ())) or frozenset(column.name for column in relation.columns)
        missing = names - {column.name for column in relation.columns}
        if missing:
            raise TroubleError("42703", f'column "{min(missing)}" of relation "{relation.name}" does not exist')
        if node.is_from:
            relation, entry = self.target(node.relation)
            self.written(Action.INSERT, relation, names)
            for column in relation.columns:
                if column.default is not None:
                    self.owned_expression(column.default, relation)
            if node.whereClause is not None:
                # Of the rows that come in, not of those that are there.
                entry.columns = [Column(column.name, plain=column.plain) for column in entry.columns]
                self.expression(node.whereClause, Scope(entries=[entry]))
            return
        columns = self.scanned(relation)
        self.use_all([column for column in columns if column.name in names], Use.COMPUTE)

    # --- code

    def _do(self, node: Any) -> Found:
        language = "plpgsql"
        for option in node.args or ():
            if option.defname == "language":
                language = getattr(option.arg, "sval", "")
        self.touched.add(effect(Action.CALL, Kind.FUNCTION, "do", language=language, opaque=True))
        self.unknown("the code of a DO block is not read")
        return Found()

    def _call_procedure(self, node: Any) -> Found:
        names = strings(node.funccall.funcname)
        self.call(node.funccall, Scope())
        self.poison = True
        users = self.state.functions(names[-2] if len(names) > 1 else None, names[-1])
        if any(function.columns for function in users):
            shapes = {function.columns for function in users}
            shape = shapes.pop() if len(shapes) == 1 else None
            return Found(outputs=tuple(Output(name) for name in shape) if shape else None)
        return Found()

    # --- messages, maintenance

    def _listen(self, node: Any) -> Found:
        self.touched.add(effect(Action.CONSUME, Kind.CHANNEL, node.conditionname or "*"))
        return Found()

    def _notify_channel(self, node: Any) -> Found:
        self.touched.add(effect(Action.PUBLISH, Kind.CHANNEL, node.conditionname))
        return Found()

    def _truncate(self, node: Any) -> Found:
        seen: set[int] = set()
        for name in node.relations:
            relation, _ = self.target(name)
            if relation.oid:
                self.truncated(relation, cascades=node.behavior == 1, seen=seen)
            else:
                self.written(Action.TRUNCATE, relation, frozenset())
        return Found()

    def _lock(self, node: Any) -> Found:
        for name in node.relations:
            relation = self.relation(name)
            self.locked(relation, _LOCK_MODES.get(node.mode, "ACCESS EXCLUSIVE"))
            if relation.kind == "v":
                for thing, _ in self._beneath(relation)[1].reads:
                    self.touched.add(
                        Effect(Action.READ, thing, attributes=(("locks", True), ("mode", _LOCK_MODES.get(node.mode, ""))))
                    )
        return Found()

    def _vacuum(self, node: Any) -> Found:
        change = "vacuum" if node.is_vacuumcmd else "analyze"
        self._maintained([each.relation for each in node.rels or () if each.relation is not None], change)
        if not node.rels:
            self.touched.add(effect(Action.ADMIN, Kind.SERVER, self.catalogue.database, change=change))
        return Found()

    def _maintained(self, names: list[Any], change: str) -> None:
        for name in names:
            relation = self.relation(name)
            for each in (relation, *kin(self.catalogue, relation)):
                self.touched.add(effect(Action.ADMIN, Kind.TABLE, each.schema, each.name, change=change))
                for text in each.expressions:
                    self.owned_expression(text, each)

    def _cluster(self, node: Any) -> Found:
        if node.relation is not None:
            self._maintained([node.relation], "cluster")
        else:
            self.touched.add(effect(Action.ADMIN, Kind.SERVER, self.catalogue.database, change="cluster"))
        return Found()

    def _reindex(self, node: Any) -> Found:
        if node.relation is not None and self.state.relation(node.relation.schemaname, node.relation.relname) is not None:
            relation = self.relation(node.relation)
            kind = Kind.INDEX if relation.kind in ("i", "I") else Kind.TABLE
            self.touched.add(effect(Action.ADMIN, kind, relation.schema, relation.name, change="reindex"))
        elif node.relation is not None:
            self.touched.add(effect(Action.ADMIN, Kind.INDEX, node.relation.relname, change="reindex"))
        else:
            self.touched.add(effect(Action.ADMIN, Kind.SERVER, node.name or self.catalogue.database, change="reindex"))
        return Found()

    def _administered(self, node: Any) -> Found:
        sort = type(node).__name__.removesuffix("Stmt")
        name = getattr(node, "filename", None) or self.catalogue.database
        kind = Kind.FILE if type(node) is ast.LoadStmt else Kind.SERVER
        self.touched.add(effect(Action.ADMIN, kind, name, change=sort))
        self.poison = True
        return Found(sensitive=type(node) is ast.AlterSystemStmt)

    # --- definitions, by their nodes

    def _named(self, node: Any) -> Found:
        action, kind, sort, attribute = _DEFINED[type(node)]
        value = getattr(node, attribute) if attribute is not None else None
        names = _names_of(value)
        marks: dict[str, Scalar] = {"sort": sort} if kind is Kind.OBJECT else {}
        if type(node) in _OPAQUE:
            marks["opaque"] = True
        if kind in (Kind.FUNCTION, Kind.TYPE, Kind.SEQUENCE) and names:
            if action is Action.CREATE:
                names = self.placed(value) if type(value) is ast.RangeVar else self.new_path(names)
            else:
                names = self.old_path(kind, names)
        self.poison = True
        found = self.defined(node, action, kind, names or ("",), **marks)
        found.sensitive = type(node) in _WITH_SECRETS
        return found

    def _define(self, node: Any) -> Found:
        kind = {ObjectType.OBJECT_AGGREGATE: Kind.FUNCTION, ObjectType.OBJECT_TYPE: Kind.TYPE}.get(node.kind, Kind.OBJECT)
        names = strings(node.defnames)
        path = self.new_path(names)
        marks: dict[str, Scalar] = {"opaque": True}
        if kind is Kind.OBJECT:
            marks["sort"] = str(node.kind.name).removeprefix("OBJECT_").lower()
        self.poison = True
        self.touched.add(marked(Action.CREATE, kind, path, marks))
        return Found(change=ChangeCatalogue())

    def _on_relation(self, node: Any) -> Found:
        action, sort, attribute = _ON_RELATIONS[type(node)]
        name = getattr(node, attribute)
        relation_node = node.table if type(node) in (ast.CreatePolicyStmt, ast.AlterPolicyStmt) else node.relation
        relation = self.relation(relation_node)
        path = (relation.schema, relation.name)
        self.touched.add(effect(action, Kind.OBJECT, *path, name or "", sort=sort, opaque=True))
        for each in (relation, *self._below(relation)):
            change = f"{action}_{sort}"
            self.touched.add(effect(Action.ALTER, Kind.TABLE, each.schema, each.name, change=change))
        self.poison = True
        self.sweep(node)
        return Found(change=ChangeCatalogue())

    def _renamed_object(self, node: Any) -> Found:
        self.poison = True
        return self.changed(node, "rename")

    def _moved(self, node: Any) -> Found:
        self.poison = True
        return self.changed(node, "set_schema")

    def _owned_by(self, node: Any) -> Found:
        return self.changed(node, "owner")

    def _commented(self, node: Any) -> Found:
        return self.changed(node, "comment")

    def _labelled(self, node: Any) -> Found:
        self.touched.add(effect(Action.ADMIN, Kind.SERVER, self.catalogue.database, change="security_label"))
        return self.changed(node, "security_label")

    def _depends(self, node: Any) -> Found:
        return self.changed(node, "depends")

    def _dropped(self, node: Any) -> Found:
        found = self.drop(node)
        simple = node.removeType in (ObjectType.OBJECT_TABLE, ObjectType.OBJECT_VIEW, ObjectType.OBJECT_MATVIEW)
        if not simple or node.behavior == 1:
            self.poison = True
        return found

    def _drop_owned(self, node: Any) -> Found:
        for role in node.roles:
            self.touched.add(effect(Action.DROP, Kind.ROLE, role.rolename or "current", change="owned"))
        self.unknown("what a role owns is not known")
        self.poison = True
        return Found(change=ChangeCatalogue())

    def _reassign(self, node: Any) -> Found:
        for role in node.roles:
            self.touched.add(effect(Action.GRANT, Kind.ROLE, role.rolename or "current", change="reassign"))
        return Found(change=ChangeCatalogue())

    def _default_privileges(self, node: Any) -> Found:  # noqa: ARG002
        self.touched.add(effect(Action.GRANT, Kind.SERVER, self.catalogue.database, change="default_privileges"))
        return Found(change=ChangeCatalogue())

    def _table(self, node: Any) -> Found:
        return self.create_table(node)

    def _alter_table(self, node: Any) -> Found:
        found = self.alter_table(node)
        if not (isinstance(found.change, ChangeCatalogue) and found.change.created):
            self.poison = True
        return found

    def _view(self, node: Any) -> Found:
        self.poison = True
        return self.create_view(node)

    def _schema(self, node: Any) -> Found:
        self.poison = True
        return self.create_schema(node)

    def _as(self, node: Any) -> Found:
        if type(node.query) is ast.ExecuteStmt:
            self.poison = True
        return self.create_table_as(node)


def _inner_text(text: str) -> str | None:
    """What stands behind the AS of a PREPARE, whose own parts before it hold no such word outside quotes."""
    depth = 0
    for token in scan(text):
        if token.name == "ASCII_40":
            depth += 1
        elif token.name == "ASCII_41":
            depth -= 1
        elif token.name == "AS" and depth == 0:
            return text[token.end + 1 :].strip()
    return None


def _names_of(value: Any) -> tuple[str, ...]:
    kind = type(value)
    if value is None:
        return ()
    if kind is str:
        return (value,)
    if kind is tuple:
        found: list[str] = []
        for item in value:
            found.extend(_names_of(item))
        return tuple(found)
    if kind is ast.String:
        return (value.sval,)
    if kind is ast.RangeVar:
        return (value.schemaname, value.relname) if value.schemaname is not None else (value.relname,)
    if kind is ast.ObjectWithArgs:
        return strings(value.objname)
    if kind is ast.TypeName:
        return strings(value.names)
    if kind is ast.RoleSpec:
        return (value.rolename or "current",)
    return ("",)


def _setting_text(node: Any) -> str | None:
    if type(node) is not ast.A_Const or node.isnull:
        return None
    value = node.val
    kind = type(value)
    if kind is ast.String:
        text: str = value.sval
        return text
    if kind is ast.Integer:
        return str(value.ival)
    if kind is ast.Boolean:
        return "on" if value.boolval else "off"
    if kind is ast.Float:
        number: str = value.fval
        return number
    return None


def _written_path(text: str) -> tuple[str, ...] | None:
    """A list of schemas as set_config takes it; None where it is not one."""
    if text.strip() == "":
        return ()
    found: list[str] = []
    for part in _split_list(text):
        if part.strip() == '""':
            continue  # no schema has an empty name
        name = written_name(part.strip()) if part.strip() != "$user" else (None, "$user")
        if name is None or name[0] is not None:
            return None
        found.append(name[1])
    return tuple(found)


def _split_list(text: str) -> list[str]:
    parts, start, quoted = [], 0, False
    for index, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _is_path_call(node: Any) -> bool:
    """Whether a SELECT is set_config('search_path', …) with constants and nothing else, as pg_dump sends it."""
    if node.targetList is None or len(node.targetList) != 1 or node.fromClause or node.valuesLists or node.withClause:
        return False
    if node.whereClause or node.limitCount or node.limitOffset or node.havingClause or node.groupClause:
        return False
    call = node.targetList[0].val
    if type(call) is not ast.FuncCall or strings(call.funcname) not in (("set_config",), ("pg_catalog", "set_config")):
        return False
    arguments = call.args or ()
    if len(arguments) != 3 or any(type(argument) is not ast.A_Const for argument in arguments):
        return False
    name, value, local = (argument.val for argument in arguments)
    return (
        type(name) is ast.String
        and name.sval.lower() == "search_path"
        and type(value) is ast.String
        and type(local) is ast.Boolean
        and not call.agg_filter
        and not call.over
        and not call.agg_order
    )


def _sought_setting(node: Any) -> str | None:
    """The name of the setting in `SELECT set_config(name, 'constant', …) FROM pg_settings WHERE name = 'constant'`, as
    pg_dump asks for one that the server may not have; None for anything else."""
    if len(node.targetList or ()) != 1 or len(node.fromClause or ()) != 1 or node.withClause is not None:
        return None
    call, source, condition = node.targetList[0].val, node.fromClause[0], node.whereClause
    if type(call) is not ast.FuncCall or type(source) is not ast.RangeVar or type(condition) is not ast.A_Expr:
        return None
    if [type(argument) for argument in call.args or ()] != [ast.ColumnRef, ast.A_Const, ast.A_Const]:
        return None
    if condition.kind != A_Expr_Kind.AEXPR_OP or strings(condition.name) != ("=",):
        return None
    left, right = condition.lexpr, condition.rexpr
    if type(left) is not ast.ColumnRef or left != call.args[0] or type(right) is not ast.A_Const or right.isnull:
        return None
    return right.val.sval if type(right.val) is ast.String else None


def _truth(option: Any) -> bool:
    """defGetBoolean, erring towards true: what it would refuse never runs."""
    if option.arg is None or option.defaction != DefElemAction.DEFELEM_UNSPEC:
        return True
    kind = type(option.arg)
    if kind is ast.Integer:
        return bool(option.arg.ival != 0)
    text = getattr(option.arg, "sval", None)
    if kind is ast.Boolean:
        return bool(option.arg.boolval)
    return not (isinstance(text, str) and text.lower() in ("false", "off"))


_Reader = Callable[[Commands, Any], Found]

# For plain definitions: the action, the kind of thing, the sort where it has no kind, the attribute with its name.
_DEFINED: dict[type[Any], tuple[Action, Kind, str, str | None]] = {
    ast.CreatedbStmt: (Action.CREATE, Kind.DATABASE, "", "dbname"),
    ast.DropdbStmt: (Action.DROP, Kind.DATABASE, "", "dbname"),
    ast.AlterDatabaseStmt: (Action.ALTER, Kind.DATABASE, "", "dbname"),
    ast.AlterDatabaseSetStmt: (Action.ALTER, Kind.DATABASE, "", "dbname"),
    ast.AlterDatabaseRefreshCollStmt: (Action.ALTER, Kind.DATABASE, "", "dbname"),
    ast.CreateFunctionStmt: (Action.CREATE, Kind.FUNCTION, "", "funcname"),
    ast.AlterFunctionStmt: (Action.ALTER, Kind.FUNCTION, "", "func"),
    ast.CreateExtensionStmt: (Action.CREATE, Kind.EXTENSION, "", "extname"),
    ast.AlterExtensionStmt: (Action.ALTER, Kind.EXTENSION, "", "extname"),
    ast.AlterExtensionContentsStmt: (Action.ALTER, Kind.EXTENSION, "", "extname"),
    ast.CreatePLangStmt: (Action.CREATE, Kind.OBJECT, "language", "plname"),
    ast.CreateDomainStmt: (Action.CREATE, Kind.TYPE, "", "domainname"),
    ast.AlterDomainStmt: (Action.ALTER, Kind.TYPE, "", "typeName"),
    ast.CreateEnumStmt: (Action.CREATE, Kind.TYPE, "", "typeName"),
    ast.AlterEnumStmt: (Action.ALTER, Kind.TYPE, "", "typeName"),
    ast.CreateRangeStmt: (Action.CREATE, Kind.TYPE, "", "typeName"),
    ast.CompositeTypeStmt: (Action.CREATE, Kind.TYPE, "", "typevar"),
    ast.AlterTypeStmt: (Action.ALTER, Kind.TYPE, "", "typeName"),
    ast.CreateSeqStmt: (Action.CREATE, Kind.SEQUENCE, "", "sequence"),
    ast.AlterSeqStmt: (Action.ALTER, Kind.SEQUENCE, "", "sequence"),
    ast.CreateCastStmt: (Action.CREATE, Kind.OBJECT, "cast", "sourcetype"),
    ast.CreateConversionStmt: (Action.CREATE, Kind.OBJECT, "conversion", "conversion_name"),
    ast.CreateOpClassStmt: (Action.CREATE, Kind.OBJECT, "operator class", "opclassname"),
    ast.CreateOpFamilyStmt: (Action.CREATE, Kind.OBJECT, "operator family", "opfamilyname"),
    ast.AlterOpFamilyStmt: (Action.ALTER, Kind.OBJECT, "operator family", "opfamilyname"),
    ast.AlterOperatorStmt: (Action.ALTER, Kind.OBJECT, "operator", "opername"),
    ast.CreateTransformStmt: (Action.CREATE, Kind.OBJECT, "transform", "lang"),
    ast.CreateAmStmt: (Action.CREATE, Kind.OBJECT, "access method", "amname"),
    ast.CreateEventTrigStmt: (Action.CREATE, Kind.OBJECT, "event trigger", "trigname"),
    ast.AlterEventTrigStmt: (Action.ALTER, Kind.OBJECT, "event trigger", "trigname"),
    ast.CreateFdwStmt: (Action.CREATE, Kind.OBJECT, "fdw", "fdwname"),
    ast.AlterFdwStmt: (Action.ALTER, Kind.OBJECT, "fdw", "fdwname"),
    ast.CreateForeignServerStmt: (Action.CREATE, Kind.OBJECT, "foreign server", "servername"),
    ast.AlterForeignServerStmt: (Action.ALTER, Kind.OBJECT, "foreign server", "servername"),
    ast.CreateUserMappingStmt: (Action.CREATE, Kind.OBJECT, "user mapping", "servername"),
    ast.AlterUserMappingStmt: (Action.ALTER, Kind.OBJECT, "user mapping", "servername"),
    ast.DropUserMappingStmt: (Action.DROP, Kind.OBJECT, "user mapping", "servername"),
    ast.ImportForeignSchemaStmt: (Action.CREATE, Kind.OBJECT, "foreign schema", "local_schema"),
    ast.CreatePublicationStmt: (Action.CREATE, Kind.OBJECT, "publication", "pubname"),
    ast.AlterPublicationStmt: (Action.ALTER, Kind.OBJECT, "publication", "pubname"),
    ast.CreateSubscriptionStmt: (Action.CREATE, Kind.OBJECT, "subscription", "subname"),
    ast.AlterSubscriptionStmt: (Action.ALTER, Kind.OBJECT, "subscription", "subname"),
    ast.DropSubscriptionStmt: (Action.DROP, Kind.OBJECT, "subscription", "subname"),
    ast.CreateTableSpaceStmt: (Action.CREATE, Kind.OBJECT, "tablespace", "tablespacename"),
    ast.DropTableSpaceStmt: (Action.DROP, Kind.OBJECT, "tablespace", "tablespacename"),
    ast.AlterTableSpaceOptionsStmt: (Action.ALTER, Kind.OBJECT, "tablespace", "tablespacename"),
    ast.AlterTableMoveAllStmt: (Action.ALTER, Kind.OBJECT, "tablespace", "orig_tablespacename"),
    ast.CreateStatsStmt: (Action.CREATE, Kind.OBJECT, "statistics", "defnames"),
    ast.AlterStatsStmt: (Action.ALTER, Kind.OBJECT, "statistics", "defnames"),
    ast.AlterTSDictionaryStmt: (Action.ALTER, Kind.OBJECT, "text search dictionary", "dictname"),
    ast.AlterTSConfigurationStmt: (Action.ALTER, Kind.OBJECT, "text search configuration", "cfgname"),
    ast.AlterCollationStmt: (Action.ALTER, Kind.OBJECT, "collation", "collname"),
}

# What these define is code, or a way for values to leave, that we do not read.
_OPAQUE = frozenset(
    {
        ast.CreateFunctionStmt,
        ast.AlterFunctionStmt,
        ast.CreateExtensionStmt,
        ast.AlterExtensionStmt,
        ast.CreatePLangStmt,
        ast.CreateCastStmt,
        ast.CreateConversionStmt,
        ast.CreateOpClassStmt,
        ast.CreateOpFamilyStmt,
        ast.CreateTransformStmt,
        ast.CreateAmStmt,
        ast.CreateEventTrigStmt,
        ast.CreateFdwStmt,
        ast.CreateForeignServerStmt,
        ast.CreatePublicationStmt,
        ast.CreateSubscriptionStmt,
        ast.ImportForeignSchemaStmt,
    }
)

_WITH_SECRETS = frozenset(
    {
        ast.CreateUserMappingStmt,
        ast.AlterUserMappingStmt,
        ast.CreateForeignServerStmt,
        ast.AlterForeignServerStmt,
        ast.CreateFdwStmt,
        ast.AlterFdwStmt,
        ast.CreateSubscriptionStmt,
        ast.AlterSubscriptionStmt,
        ast.AlterDatabaseSetStmt,
    }
)

_ON_RELATIONS: dict[type[Any], tuple[Action, str, str]] = {
    ast.CreateTrigStmt: (Action.CREATE, "trigger", "trigname"),
    ast.RuleStmt: (Action.CREATE, "rule", "rulename"),
    ast.CreatePolicyStmt: (Action.CREATE, "policy", "policy_name"),
    ast.AlterPolicyStmt: (Action.ALTER, "policy", "policy_name"),
}

COMMANDS: dict[type[Any], _Reader] = (
    dict.fromkeys(_DEFINED, Commands._named)
    | dict.fromkeys(_ON_RELATIONS, Commands._on_relation)
    | {
        ast.SelectStmt: Commands._select,
        ast.InsertStmt: Commands._insert,
        ast.UpdateStmt: Commands._update,
        ast.DeleteStmt: Commands._delete,
        ast.MergeStmt: Commands._merge,
        ast.VariableSetStmt: Commands._set_variable,
        ast.VariableShowStmt: Commands._show,
        ast.TransactionStmt: Commands._transaction,
        ast.ConstraintsSetStmt: Commands._constraints,
        ast.PrepareStmt: Commands._prepare,
        ast.ExecuteStmt: Commands._execute,
        ast.DeallocateStmt: Commands._deallocate,
        ast.DiscardStmt: Commands._discard,
        ast.DeclareCursorStmt: Commands._declare,
        ast.FetchStmt: Commands._fetch,
        ast.ClosePortalStmt: Commands._close,
        ast.ExplainStmt: Commands._explain,
        ast.CopyStmt: Commands._copy,
        ast.DoStmt: Commands._do,
        ast.CallStmt: Commands._call_procedure,
        ast.ListenStmt: Commands._listen,
        ast.UnlistenStmt: Commands._listen,
        ast.NotifyStmt: Commands._notify_channel,
        ast.TruncateStmt: Commands._truncate,
        ast.LockStmt: Commands._lock,
        ast.VacuumStmt: Commands._vacuum,
        ast.ClusterStmt: Commands._cluster,
        ast.ReindexStmt: Commands._reindex,
        ast.CheckPointStmt: Commands._administered,
        ast.LoadStmt: Commands._administered,
        ast.AlterSystemStmt: Commands._administered,
        ast.DefineStmt: Commands._define,
        ast.RenameStmt: Commands._renamed_object,
        ast.AlterObjectSchemaStmt: Commands._moved,
        ast.AlterOwnerStmt: Commands._owned_by,
        ast.AlterObjectDependsStmt: Commands._depends,
        ast.CommentStmt: Commands._commented,
        ast.SecLabelStmt: Commands._labelled,
        ast.DropStmt: Commands._dropped,
        ast.DropOwnedStmt: Commands._drop_owned,
        ast.ReassignOwnedStmt: Commands._reassign,
        ast.AlterDefaultPrivilegesStmt: Commands._default_privileges,
        ast.CreateStmt: Commands._table,
        ast.CreateForeignTableStmt: Commands._table,
        ast.CreateTableAsStmt: Commands._as,
        ast.AlterTableStmt: Commands._alter_table,
        ast.IndexStmt: Commands.create_index,
        ast.ViewStmt: Commands._view,
        ast.CreateSchemaStmt: Commands._schema,
        ast.GrantStmt: Commands.grant,
        ast.GrantRoleStmt: Commands.grant_role,
        ast.CreateRoleStmt: Commands.role,
        ast.AlterRoleStmt: Commands.role,
        ast.AlterRoleSetStmt: Commands.role,
        ast.DropRoleStmt: Commands.role,
        ast.RefreshMatViewStmt: Commands.refresh,
    }
)
