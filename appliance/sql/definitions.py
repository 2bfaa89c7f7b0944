"""What a statement that defines, changes or removes objects does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pglast.enums import AlterTableType, ConstrType, DropBehavior, ObjectType, OnCommitAction, RoleStmtType

from appliance.effects import Action, Effect, Kind, Scalar, Use, effect
from appliance.sql.catalogue import Relation, TableColumn
from appliance.sql.names import SYSTEM_SCHEMAS, TEMPORARY, TroubleError, kin
from appliance.sql.queries import Queries
from appliance.sql.reading import Change, ChangeCatalogue, Output
from appliance.sql.scopes import Column, Entry, Scope
from appliance.sql.touched import Touched, marked, table
from appliance.sql.tree import ast, children, strings

# OIDs of the types that tables are commonly made of (pg_type.dat); any other counts as not known.
_TYPE_OIDS = {
    "bool": 16,
    "bytea": 17,
    "name": 19,
    "int8": 20,
    "int2": 21,
    "int4": 23,
    "text": 25,
    "json": 114,
    "xml": 142,
    "float4": 700,
    "float8": 701,
    "inet": 869,
    "bpchar": 1042,
    "varchar": 1043,
    "date": 1082,
    "time": 1083,
    "timestamp": 1114,
    "timestamptz": 1184,
    "interval": 1186,
    "timetz": 1266,
    "numeric": 1700,
    "uuid": 2950,
    "jsonb": 3802,
}

_SERIALS = {
    "serial": "int4",
    "serial4": "int4",
    "bigserial": "int8",
    "serial8": "int8",
    "smallserial": "int2",
    "serial2": "int2",
}

_KINDS = {
    ObjectType.OBJECT_TABLE: Kind.TABLE,
    ObjectType.OBJECT_VIEW: Kind.TABLE,
    ObjectType.OBJECT_MATVIEW: Kind.TABLE,
    ObjectType.OBJECT_FOREIGN_TABLE: Kind.TABLE,
    ObjectType.OBJECT_INDEX: Kind.INDEX,
    ObjectType.OBJECT_SEQUENCE: Kind.SEQUENCE,
    ObjectType.OBJECT_SCHEMA: Kind.SCHEMA,
    ObjectType.OBJECT_DATABASE: Kind.DATABASE,
    ObjectType.OBJECT_ROLE: Kind.ROLE,
    ObjectType.OBJECT_FUNCTION: Kind.FUNCTION,
    ObjectType.OBJECT_PROCEDURE: Kind.FUNCTION,
    ObjectType.OBJECT_ROUTINE: Kind.FUNCTION,
    ObjectType.OBJECT_AGGREGATE: Kind.FUNCTION,
    ObjectType.OBJECT_TYPE: Kind.TYPE,
    ObjectType.OBJECT_DOMAIN: Kind.TYPE,
    ObjectType.OBJECT_EXTENSION: Kind.EXTENSION,
}

# What goes by the name of a table and is none, where a rule may want to tell them apart.
_FORMS: dict[Any, Scalar] = {
    ObjectType.OBJECT_VIEW: "view",
    ObjectType.OBJECT_MATVIEW: "materialized_view",
    ObjectType.OBJECT_FOREIGN_TABLE: "foreign_table",
}

# Forms of CREATE TABLE that tell all of the table's columns.
_MADE_IN_FULL = frozenset({"plain", "on_commit"})

# Objects that hang on a table: their path is the table's with their own name at its end, and the table is altered.
_ON_TABLES = frozenset(
    {
        ObjectType.OBJECT_COLUMN,
        ObjectType.OBJECT_ATTRIBUTE,
        ObjectType.OBJECT_TABCONSTRAINT,
        ObjectType.OBJECT_TRIGGER,
        ObjectType.OBJECT_RULE,
        ObjectType.OBJECT_POLICY,
    }
)

_RELATIONS = frozenset({Kind.TABLE, Kind.SEQUENCE, Kind.INDEX})

# Objects whose name has no schema.
_GLOBAL = frozenset(
    {
        ObjectType.OBJECT_DATABASE,
        ObjectType.OBJECT_ROLE,
        ObjectType.OBJECT_SCHEMA,
        ObjectType.OBJECT_EXTENSION,
        ObjectType.OBJECT_LANGUAGE,
        ObjectType.OBJECT_TABLESPACE,
        ObjectType.OBJECT_FDW,
        ObjectType.OBJECT_FOREIGN_SERVER,
        ObjectType.OBJECT_EVENT_TRIGGER,
        ObjectType.OBJECT_PUBLICATION,
        ObjectType.OBJECT_SUBSCRIPTION,
        ObjectType.OBJECT_ACCESS_METHOD,
        ObjectType.OBJECT_PARAMETER_ACL,
        ObjectType.OBJECT_LARGEOBJECT,
        ObjectType.OBJECT_CAST,
        ObjectType.OBJECT_TRANSFORM,
        ObjectType.OBJECT_USER_MAPPING,
    }
)

# Index methods and operator classes of the system's own: anything else runs code that we cannot read.
_INDEX_METHODS = frozenset({"btree", "hash", "gin", "gist", "spgist", "brin"})

_OPERATOR_CLASSES = frozenset(
    {
        "text_pattern_ops",
        "varchar_pattern_ops",
        "bpchar_pattern_ops",
        "text_ops",
        "varchar_ops",
        "bpchar_ops",
        "name_ops",
        "int2_ops",
        "int4_ops",
        "int8_ops",
        "numeric_ops",
        "float4_ops",
        "float8_ops",
        "bool_ops",
        "uuid_ops",
        "date_ops",
        "time_ops",
        "timestamp_ops",
        "timestamptz_ops",
        "bytea_ops",
        "inet_ops",
        "cidr_ops",
        "jsonb_ops",
        "jsonb_path_ops",
        "array_ops",
        "tsvector_ops",
        "tsquery_ops",
        "range_ops",
        "point_ops",
        "box_ops",
    }
)


@dataclass(slots=True)
class Found:
    """What is to be said of one statement beyond its effects."""

    outputs: tuple[Output, ...] | None = None
    change: Change | None = None
    copies: str | None = None
    copies_binary: bool = False
    copies_oddly: bool = False
    sensitive: bool = False


class Definitions(Queries):
    """Reads CREATE, ALTER, DROP, GRANT and their like."""

    # --- where objects are

    def placed(self, name: Any) -> tuple[str, str]:
        """Schema and name of a new relation."""
        if name.relpersistence == "t" and name.schemaname in (None, TEMPORARY):
            return TEMPORARY, name.relname
        return self.new_path((name.schemaname, name.relname) if name.schemaname else (name.relname,))

    def new_path(self, names: tuple[str, ...]) -> tuple[str, str]:
        """Schema and name of any new object."""
        if len(names) > 1:
            return names[-2], names[-1]
        schema = self.state.creation_schema()
        if schema is None:
            raise TroubleError("3F000", "no schema has been selected to create in")
        return schema, names[-1]

    def old_path(self, kind: Kind, names: tuple[str, ...]) -> tuple[str, ...]:
        """Where an object is that should exist."""
        if len(names) > 1:
            return names[-2:]
        name = names[0]
        if kind in _RELATIONS:
            relation = self.state.relation(None, name)
            if relation is not None:
                return relation.schema, relation.name
        elif kind is Kind.FUNCTION:
            functions = self.state.functions(None, name)
            if functions:
                return functions[0].schema, name
        elif kind is Kind.TYPE:
            found = self.state.type(None, name)
            if found is not None:
                return found.schema, name
        return self.state.creation_schema() or "", name

    def _existing(self, name: Any) -> Relation | None:
        return self.state.relation(name.schemaname, name.relname)

    def _below(self, relation: Relation) -> tuple[Relation, ...]:
        above = set(kin(self.catalogue, relation, descend=False))
        return tuple(each for each in kin(self.catalogue, relation) if each not in above)

    # --- tables

    def create_table(self, node: Any) -> Found:
        if type(node) is ast.CreateForeignTableStmt:
            found = self.create_table(node.base)
            path = self.placed(node.base.relation)
            self.touched.add(effect(Action.CREATE, Kind.TABLE, *path, form="foreign", opaque=True))
            return replace(found, change=ChangeCatalogue(unclear=True))
        schema, name = self.placed(node.relation)
        if schema in SYSTEM_SCHEMAS:
            self.unknown("a table among the system's own", Kind.TABLE, schema, name)
        columns: list[TableColumn] = []
        marks: dict[str, Scalar] = {}
        form = "plain"
        if node.relation.relpersistence == "u":
            form = "unlogged"
        if node.accessMethod is not None or node.tablespacename is not None or node.options:
            form = "with_options"
        if node.oncommit == OnCommitAction.ONCOMMIT_DROP:
            # It goes when the transaction ends, and its name then means another table.
            form = "on_commit"
        if node.partspec is not None:
            form = "partitioned"
        if node.ofTypename is not None:
            form = "of"
            self.type_name(node.ofTypename, None)
        if node.inhRelations:
            form = "partition_of" if node.partbound is not None else "inherits"
            for parent in node.inhRelations:
                above = self.relation(parent)
                self.touched.add(effect(Action.ALTER, Kind.TABLE, above.schema, above.name, change=form))
        outside, self.touched = self.touched, Touched()
        for element in node.tableElts or ():
            if type(element) is ast.ColumnDef and element.typeName is not None:
                columns.append(self._defined_column(element, len(columns) + 1))
        entry = Entry(name, [Column(column.name) for column in columns], aliased=False)
        scope = Scope(entries=[entry])
        for element in node.tableElts or ():
            kind = type(element)
            if kind is ast.ColumnDef:
                self._column_constraints(element, scope, (schema, name))
            elif kind is ast.Constraint:
                self._constraint(element, scope, (schema, name), fields=())
            elif kind is ast.TableLikeClause:
                form = "like"
                like = self.relation(element.relation)
                self.touched.scan(table(like.schema, like.name))
            else:
                self.unknown(f"{kind.__name__} is not understood in CREATE TABLE")
        for constraint in (*(node.constraints or ()), *(node.nnconstraints or ())):
            self._constraint(constraint, scope, (schema, name), fields=())
        if node.partspec is not None or node.partbound is not None:
            entry.open = entry.open or bool(node.inhRelations)
            self.sweep_expressions((node.partspec, node.partbound), scope)
        inside, self.touched = self.touched, outside
        if form in _MADE_IN_FULL and any(each.action in (Action.CALL, Action.UNKNOWN) for each in inside.effects):
            form = "computed"
        self.touched.take(inside)
        if schema == TEMPORARY:
            marks["temporary"] = True
        fields = frozenset(column.name for column in columns)
        self.touched.add(marked(Action.CREATE, Kind.TABLE, (schema, name), {"form": form, **marks}, fields))
        self._defines()
        if form not in _MADE_IN_FULL or (node.if_not_exists and self._in_the_way(schema, name)):
            return Found(change=ChangeCatalogue())
        made = Relation(0, schema, name, "r", tuple(columns), fleeting=form == "on_commit")
        return Found(change=ChangeCatalogue(created=(made,)))

    def _in_the_way(self, schema: str, name: str) -> bool:
        return self.state.relation(schema, name) is not None

    def _defined_column(self, node: Any, number: int) -> TableColumn:
        names = strings(node.typeName.names)
        serial = _SERIALS.get(names[-1]) if len(names) == 1 else None
        if serial is not None:
            return TableColumn(number, node.colname, _TYPE_OIDS[serial])
        plain = self.type_name(node.typeName, None)
        if node.fdwoptions:
            self.unknown("options of a foreign table's column")
        oid = _TYPE_OIDS.get(names[-1], 0) if plain and not node.typeName.arrayBounds else 0
        return TableColumn(number, node.colname, oid)

    def _column_constraints(self, node: Any, scope: Scope, path: tuple[str, str]) -> None:
        if node.collClause is not None:
            self.expression(node.collClause, scope)
        for default in (node.raw_default, node.cooked_default):
            if default is not None:
                self._default(default, scope)
        for constraint in node.constraints or ():
            self._constraint(constraint, scope, path, fields=(node.colname,))

    def _default(self, node: Any, scope: Scope) -> None:
        # A sequence that a default takes its numbers from is not moved by defining it.
        self.owned, before = True, self.owned
        self.expression(node, scope)
        self.owned = before

    def _constraint(self, node: Any, scope: Scope, path: tuple[str, str], fields: tuple[str, ...]) -> None:
        if node.generated_kind == "v" and self.catalogue.server_version < 180_000:
            self.unknown("virtual generated columns are newer than the server")
        temporal = node.without_overlaps or node.fk_with_period or node.pk_with_period
        if temporal and self.catalogue.server_version < 180_000:
            self.unknown("temporal keys are newer than the server")
        if node.contype == ConstrType.CONSTR_NOTNULL and not fields and self.catalogue.server_version < 180_000:
            self.unknown("NOT NULL as a table constraint is newer than the server")
        if node.raw_expr is not None:
            if node.contype == ConstrType.CONSTR_DEFAULT:
                self._default(node.raw_expr, Scope())
            else:
                self.expression(node.raw_expr, scope)
        if node.where_clause is not None:
            self.expression(node.where_clause, scope)
        # Rows that are there already are checked, and the error's text shows a value that fails.
        keys = {*strings(node.keys or ()), *strings(node.fk_attrs or ()), *fields}
        if scope.entries:
            self.use_all([column for column in scope.entries[0].columns if column.name in keys], Use.COMPUTE)
        for element, operator in node.exclusions or ():
            if element.expr is not None:
                self.expression(element.expr, scope)
            names = strings(operator)
            self.operator(node, names[-2] if len(names) > 1 else None, names[-1], plain=False)
        if node.pktable is not None:
            own = node.pktable.relname == path[1] and node.pktable.schemaname in (None, path[0])
            if own and self._existing(node.pktable) is None:
                return
            parent = self.relation(node.pktable)
            referred = frozenset(strings(node.pk_attrs or ()))
            self.touched.add(Effect(Action.READ, table(parent.schema, parent.name), referred, Use.COMPUTE))

    def create_table_as(self, node: Any) -> Found:
        query = node.query
        schema, name = self.placed(node.into.rel)
        columns = self._stored(query)
        names = strings(node.into.colNames or ())
        labels = [names[i] if i < len(names) else column.name for i, column in enumerate(columns)]
        form = "materialized_view" if node.objtype == ObjectType.OBJECT_MATVIEW else "as"
        if node.into.onCommit == OnCommitAction.ONCOMMIT_DROP:
            form = "on_commit"
        return self._made_of(schema, name, form, labels, columns)

    def _stored(self, query: Any) -> list[Column]:
        if type(query) is ast.ExecuteStmt:
            self.unknown("CREATE TABLE AS EXECUTE")
            return []
        columns = self.query(query, Scope())
        self.use_all(columns, Use.COMPUTE)
        return columns

    def _made_of(self, schema: str, name: str, form: str, labels: list[str], columns: list[Column]) -> Found:
        marks: dict[str, Scalar] = {"temporary": True} if schema == TEMPORARY else {}
        self.touched.add(marked(Action.CREATE, Kind.TABLE, (schema, name), {"form": form, **marks}, frozenset(labels)))
        self._defines()
        made = tuple(
            TableColumn(i + 1, label, column.type_oid) for i, (label, column) in enumerate(zip(labels, columns, strict=True))
        )
        if form not in ("as", "on_commit"):
            return Found(change=ChangeCatalogue())
        return Found(change=ChangeCatalogue(created=(Relation(0, schema, name, "r", made, fleeting=form == "on_commit"),)))

    def select_into(self, node: Any, into: Any) -> Found:
        columns = self.select(node, Scope())
        self.use_all(columns, Use.COMPUTE)
        schema, name = self.placed(into.rel)
        return self._made_of(schema, name, "as", [column.name for column in columns], columns)

    def alter_table(self, node: Any) -> Found:
        kind = _KINDS.get(node.objtype, Kind.OBJECT)
        relation = self._existing(node.relation)
        if relation is None:
            if not node.missing_ok:
                relation = self.relation(node.relation)
            path = self.old_path(kind, _range_names(node.relation))
            for command in node.cmds:
                self.touched.add(effect(Action.ALTER, kind, *path, change=_change(command)))
            return Found(change=ChangeCatalogue())
        if relation.schema in SYSTEM_SCHEMAS:
            self.unknown("the system's own relations are changed", Kind.TABLE, relation.schema, relation.name)
        scope = Scope(entries=[Entry(relation.name, self.columns(relation), relation=relation, aliased=False)])
        path = (relation.schema, relation.name)
        grown: Relation | None = relation
        family = (relation, *self._below(relation))
        for command in node.cmds:
            change = _change(command)
            fields: frozenset[str] = frozenset()
            if command.subtype == AlterTableType.AT_AddColumn:
                added = self._defined_column(command.def_, 0)
                fields = frozenset({added.name})
                self._column_constraints(command.def_, scope, path)
                if grown is not None:
                    grown = self._grown(grown, added, command)
            else:
                grown = None
                if command.name is not None and any(column.name == command.name for column in relation.columns):
                    fields = frozenset({command.name})
                if command.def_ is not None:
                    self._alteration(command, scope, path)
                if command.subtype == AlterTableType.AT_AlterColumnType:
                    self.use_all([c for c in scope.entries[0].columns if c.name == command.name], Use.COMPUTE)
            for each in family:
                self.touched.add(effect(Action.ALTER, kind, each.schema, each.name, fields=fields, change=change))
        self._defines()
        created = () if grown is None or grown is relation else (grown,)
        return Found(change=ChangeCatalogue(created=created))

    def _grown(self, relation: Relation, added: TableColumn, command: Any) -> Relation | None:
        if any(column.name == added.name for column in relation.columns):
            return relation if command.missing_ok else None
        column = replace(added, number=max((c.number for c in relation.columns), default=0) + 1)
        return replace(relation, columns=(*relation.columns, column))

    def _alteration(self, command: Any, scope: Scope, path: tuple[str, str]) -> None:
        definition = command.def_
        kind = type(definition)
        if kind is ast.Constraint:
            self._constraint(definition, scope, path, fields=())
        elif kind is ast.ColumnDef:
            if definition.typeName is not None:
                self.type_name(definition.typeName, None)
            self._column_constraints(definition, scope, path)
        elif kind is ast.PartitionCmd:
            other = self.relation(definition.name)
            self.touched.add(effect(Action.ALTER, Kind.TABLE, other.schema, other.name, change=_change(command)))
            if definition.bound is not None:
                self.sweep_expressions((definition.bound,), Scope())
        elif kind is ast.RangeVar:
            other = self.relation(definition)
            self.touched.add(effect(Action.ALTER, Kind.TABLE, other.schema, other.name, change=_change(command)))
        elif command.subtype == AlterTableType.AT_ColumnDefault:
            self._default(definition, Scope())
        else:
            self.sweep_expressions((definition,), scope)

    def create_index(self, node: Any) -> Found:
        relation = self.relation(node.relation)
        if relation.schema in SYSTEM_SCHEMAS:
            self.unknown("the system's own relations are changed", Kind.TABLE, relation.schema, relation.name)
        scope = Scope(entries=[Entry(relation.name, self.columns(relation), relation=relation, aliased=False)])
        known = {column.name for column in relation.columns}
        fields: set[str] = set()
        opaque = node.accessMethod not in _INDEX_METHODS
        for element in (*(node.indexParams or ()), *(node.indexIncludingParams or ())):
            if element.name is not None:
                if element.name not in known:
                    raise TroubleError("42703", f'column "{element.name}" does not exist')
                fields.add(element.name)
            if element.expr is not None:
                self.expression(element.expr, scope)
            if element.opclass:
                names = strings(element.opclass)
                opaque |= names[-1] not in _OPERATOR_CLASSES or names[:-1] not in ((), ("pg_catalog",))
        if node.whereClause is not None:
            self.expression(node.whereClause, scope)
        marks: dict[str, Scalar] = {"opaque": True} if opaque else {}
        if node.unique:
            # A value that stands there twice is in the text of the error.
            self.use_all([column for column in scope.entries[0].columns if column.name in fields], Use.COMPUTE)
        self.touched.add(marked(Action.CREATE, Kind.INDEX, (relation.schema, node.idxname or ""), marks))
        for each in (relation, *self._below(relation)):
            self.touched.add(
                effect(Action.ALTER, Kind.TABLE, each.schema, each.name, fields=frozenset(fields), change="create_index")
            )
        self._defines()
        return Found(change=ChangeCatalogue())

    # --- removing

    def drop(self, node: Any) -> Found:
        kind = _KINDS.get(node.removeType, Kind.OBJECT)
        dropped: list[tuple[str, str]] = []
        cascades = node.behavior == DropBehavior.DROP_CASCADE
        for item in node.objects:
            names = _object_names(item)
            if node.removeType in _ON_TABLES:
                self._on_table(Action.DROP, node.removeType, names)
                continue
            if node.removeType in _GLOBAL:
                self.touched.add(marked(Action.DROP, kind, names, _sort(kind, node.removeType)))
                if node.removeType == ObjectType.OBJECT_SCHEMA:
                    self._drop_schema(names[-1], cascades=cascades)
                elif cascades:
                    self.unknown("what is dropped along with this is not known")
                continue
            path = self.old_path(kind, names)
            form = _FORMS.get(node.removeType)
            marks = _sort(kind, node.removeType) if form is None else {"form": form}
            self.touched.add(marked(Action.DROP, kind, path, marks))
            relation = self.state.relation(path[0], path[1]) if kind in _RELATIONS and len(path) == 2 else None
            if kind is Kind.INDEX and len(path) == 2:
                self.touched.add(effect(Action.DROP, Kind.INDEX, *path))
            if relation is not None and kind is Kind.TABLE:
                dropped.append((relation.schema, relation.name))
                self._drop_relation(relation, cascades=cascades, seen=set())
            elif cascades:
                self.unknown("what is dropped along with this is not known")
        self._defines()
        return Found(change=ChangeCatalogue(dropped=tuple(dropped)))

    def _drop_schema(self, schema: str, *, cascades: bool) -> None:
        if not cascades:
            return
        for relation in self.catalogue.relations:
            if relation.schema == schema:
                kind = Kind.SEQUENCE if relation.kind == "S" else Kind.TABLE
                self.touched.add(effect(Action.DROP, kind, relation.schema, relation.name))
                self._drop_dependents(relation, seen=set())
        for function in self.catalogue.functions:
            if function.schema == schema:
                self.touched.add(effect(Action.DROP, Kind.FUNCTION, schema, function.name))
        self.unknown("what is dropped along with this is not known", Kind.SCHEMA, schema)

    def _drop_relation(self, relation: Relation, *, cascades: bool, seen: set[int]) -> None:
        for each in (relation, *self._below(relation)):
            if each is relation or cascades or relation.kind == "p":
                self.touched.add(effect(Action.DROP, Kind.TABLE, each.schema, each.name))
        if cascades:
            self._drop_dependents(relation, seen)

    def _drop_dependents(self, relation: Relation, seen: set[int]) -> None:
        if relation.oid in seen:
            return
        seen.add(relation.oid)
        for key in self._referring(relation):
            child = self.catalogue.relation_by_oid.get(key.child)
            if child is not None:
                self.touched.add(effect(Action.ALTER, Kind.TABLE, child.schema, child.name, change="drop_constraint"))
        thing = table(relation.schema, relation.name)
        for view in self.catalogue.relations:
            if view.definition is None or view.schema in SYSTEM_SCHEMAS or view.oid in seen:
                continue
            _, touched = self._beneath(view)
            if any(read == thing for read, _ in touched.reads):
                self.touched.add(effect(Action.DROP, Kind.TABLE, view.schema, view.name))
                self._drop_dependents(view, seen)

    def _on_table(self, action: Action, sort: Any, names: tuple[str, ...], **marks: Scalar) -> None:
        """An object of a table is changed or dropped: the table is altered too."""
        owner = names[:-1]
        kind = _KINDS.get(sort, Kind.OBJECT)
        relation = self.state.relation(owner[-2] if len(owner) > 1 else None, owner[-1]) if owner else None
        path = (relation.schema, relation.name) if relation is not None else owner
        self.touched.add(marked(action, kind, (*path, names[-1]), {**_sort(kind, sort), **marks}))
        if relation is not None:
            change = f"{action}_{_sort_name(sort)}"
            fields = frozenset(names[-1:]) if sort == ObjectType.OBJECT_COLUMN else frozenset()
            for each in (relation, *self._below(relation)):
                self.touched.add(effect(Action.ALTER, Kind.TABLE, each.schema, each.name, fields=fields, change=change))

    # --- changing names, owners, schemas, comments

    def changed(self, node: Any, change: str) -> Found:
        """RENAME, OWNER, SET SCHEMA, COMMENT, SECURITY LABEL and the like, of any sort of object."""
        sort = node.renameType if type(node) is ast.RenameStmt else getattr(node, "objectType", None)
        if sort is None:
            sort = getattr(node, "objtype", None)
        kind = _KINDS.get(sort, Kind.OBJECT) if sort is not None else Kind.OBJECT
        relation_node = getattr(node, "relation", None)
        if relation_node is not None:
            relation = self._existing(relation_node)
            names = (relation.schema, relation.name) if relation is not None else _range_names(relation_node)
            if sort in _ON_TABLES and node.subname is not None:
                self._on_table(Action.ALTER, sort, (*names, node.subname), change=change)
            else:
                path = names if len(names) > 1 else self.old_path(kind, names)
                self.touched.add(marked(Action.ALTER, kind, path, {**_sort(kind, sort), "change": change}))
                if relation is not None:
                    for each in self._below(relation):
                        self.touched.add(effect(Action.ALTER, Kind.TABLE, each.schema, each.name, change=change))
                    if type(node) is ast.RenameStmt and sort not in _ON_TABLES:
                        self._defines()
                        renamed = replace(relation, name=node.newname)
                        gone = (relation.schema, relation.name)
                        return Found(change=ChangeCatalogue(created=(renamed,), dropped=(gone,)))
        else:
            item = getattr(node, "object", None)
            names = _object_names(item) if item is not None else (getattr(node, "subname", None) or "",)
            if sort in _ON_TABLES:
                self._on_table(Action.ALTER, sort, names, change=change)
            elif sort in _GLOBAL:
                self.touched.add(marked(Action.ALTER, kind, names, {**_sort(kind, sort), "change": change}))
            else:
                self.touched.add(
                    marked(Action.ALTER, kind, self.old_path(kind, names), {**_sort(kind, sort), "change": change})
                )
        self._defines()
        return Found(change=ChangeCatalogue())

    # --- rights

    def grant(self, node: Any) -> Found:
        change = "grant" if node.is_grant else "revoke"
        kind = _KINDS.get(node.objtype, Kind.OBJECT)
        for item in node.objects or ():
            names = _object_names(item)
            path = names if node.objtype in _GLOBAL else self.old_path(kind, names)
            self.touched.add(marked(Action.GRANT, kind, path, {**_sort(kind, node.objtype), "change": change}))
        if not node.objects:
            self.touched.add(effect(Action.GRANT, Kind.SERVER, self.catalogue.database, change=change))
        return Found(change=ChangeCatalogue())

    # --- everything else

    def defined(self, node: Any, action: Action, kind: Kind, path: Iterable[str], **marks: Scalar) -> Found:
        """An object is created, changed or dropped, and what stands inside the statement counts as used."""
        self.touched.add(marked(action, kind, path, marks))
        self.sweep(node)
        self._defines()
        return Found(change=ChangeCatalogue())

    def create_view(self, node: Any) -> Found:
        columns = self.query(node.query, Scope())
        self.use_all(columns, Use.COMPUTE)
        schema, name = self.placed(node.view)
        if schema == TEMPORARY or any(thing.path[0] == TEMPORARY for thing, _ in self.touched.reads):
            # One over temporary tables is temporary itself. It hides what has its name from every later statement, and what
            # is written to it is written to a table of another name.
            self.unknown("a temporary view stands before everything of its name")
        self.touched.add(effect(Action.CREATE, Kind.TABLE, schema, name, form="view", replace=bool(node.replace)))
        self._defines()
        return Found(change=ChangeCatalogue())

    def create_schema(self, node: Any) -> Found:
        name = node.schemaname or (node.authrole.rolename if node.authrole is not None else "") or ""
        self.touched.add(effect(Action.CREATE, Kind.SCHEMA, name))
        if node.schemaElts:
            self.unknown("CREATE SCHEMA with statements inside")
        self._defines()
        return Found(change=ChangeCatalogue())

    def role(self, node: Any) -> Found:
        kind = type(node)
        if kind is ast.DropRoleStmt:
            for role in node.roles:
                self.touched.add(effect(Action.DROP, Kind.ROLE, _role(role)))
            return Found(change=ChangeCatalogue())
        if kind is ast.CreateRoleStmt:
            sort = {RoleStmtType.ROLESTMT_USER: "user", RoleStmtType.ROLESTMT_GROUP: "group"}.get(node.stmt_type, "role")
            self.touched.add(effect(Action.CREATE, Kind.ROLE, node.role, sort=sort))
        else:
            self.touched.add(effect(Action.ALTER, Kind.ROLE, _role(node.role)))
        return Found(change=ChangeCatalogue(), sensitive=True)

    def grant_role(self, node: Any) -> Found:
        for privilege in node.granted_roles or ():
            self.touched.add(
                effect(Action.GRANT, Kind.ROLE, privilege.priv_name or "", change="grant" if node.is_grant else "revoke")
            )
        return Found(change=ChangeCatalogue())

    def refresh(self, node: Any) -> Found:
        relation = self.relation(node.relation)
        self.touched.add(effect(Action.UPDATE, Kind.TABLE, relation.schema, relation.name, change="refresh"))
        columns = self.scanned(relation)
        self.use_all(columns, Use.COMPUTE)
        for text in relation.expressions:
            self.owned_expression(text, relation)
        return Found()

    def _defines(self) -> None:
        if self.catalogue.event_triggers:
            self.touched.add(effect(Action.CALL, Kind.FUNCTION, "event trigger", opaque=True))

    def sweep_expressions(self, nodes: Iterable[Any], scope: Scope) -> None:
        """Whatever expressions stand below those nodes."""
        waiting = [node for node in nodes if node is not None]
        while waiting:
            node = waiting.pop()
            if type(node) is tuple:
                waiting.extend(node)
            elif type(node) in (ast.PartitionSpec, ast.PartitionBoundSpec, ast.PartitionRangeDatum, ast.DefElem):
                waiting.extend(children(node))
            elif type(node) is ast.PartitionElem:
                if node.expr is not None:
                    self.expression(node.expr, scope)
            elif type(node) is ast.ReplicaIdentityStmt or type(node) is ast.RoleSpec:
                continue
            else:
                self.expression(node, scope)

    def sweep(self, node: Any) -> None:
        """A backstop: whatever tables, queries and calls stand anywhere below a node count as used."""
        waiting = children(node)
        while waiting:
            below = waiting.pop()
            kind = type(below)
            depth = self.depth
            try:
                if kind in (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt):
                    self.use_all(self.query(below, Scope()), Use.COMPUTE)
                    continue
                if kind is ast.FuncCall:
                    names = strings(below.funcname)
                    self.called(below, names[-2] if len(names) > 1 else None, names[-1], plain=False)
            except TroubleError:
                # It may refer to what only the new object will have: NEW, an argument.
                self.depth = depth
                self.unknown("a part of this definition could not be read")
            if kind is ast.RangeVar:
                relation = self._existing(below)
                if relation is not None:
                    self.touched.scan(table(relation.schema, relation.name))
            waiting.extend(children(below))


def _change(command: Any) -> str:
    """AT_AddColumn → add_column."""
    name = command.subtype.name.removeprefix("AT_")
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


def _range_names(node: Any) -> tuple[str, ...]:
    return (node.schemaname, node.relname) if node.schemaname is not None else (node.relname,)


def _object_names(item: Any) -> tuple[str, ...]:
    """The names by which a statement speaks of an object, whatever its sort."""
    kind = type(item)
    if kind is tuple:
        found: list[str] = []
        for part in item:
            found.extend(_object_names(part))
        return tuple(found)
    if kind is ast.String:
        return (item.sval,)
    if kind is ast.RangeVar:
        return _range_names(item)
    if kind is ast.ObjectWithArgs:
        return strings(item.objname)
    if kind is ast.TypeName:
        return strings(item.names)
    if kind is ast.RoleSpec:
        return (_role(item),)
    if kind in (ast.Integer, ast.Float):
        return (str(getattr(item, "ival", None) or getattr(item, "fval", "")),)
    return ("",)


def _role(node: Any) -> str:
    if node is None:
        return "all"
    return node.rolename or str(node.roletype.name).removeprefix("ROLESPEC_").lower()


def _sort_name(sort: Any) -> str:
    return str(sort.name).removeprefix("OBJECT_").lower()


def _sort(kind: Kind, sort: Any) -> dict[str, Scalar]:
    return {"sort": _sort_name(sort)} if kind is Kind.OBJECT and sort is not None else {}
