"""Test cases of a policy: who does what where, and which verdict that must get. Their YAML, and how they are run.

A case gives effects, or an SQL text that is read against the small catalogue which the file describes. The reading is
the product's own, handed in, so that a case shows what the appliance would do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files as package_files
from typing import Any, TypeAlias, cast

from appliance.decisions import Hold, Refuse, Verdict
from appliance.documents import Document, Path, read_checked
from appliance.effects import Action, Effect, Kind, Thing, Use, effect
from appliance.errors import SettingError, SettingErrors
from appliance.parties import Phase, Principal, Scope
from appliance.policy.explanation import Explanation, describe_verdict, explain, masked_names, verdict_word
from appliance.policy.names import parse_path
from appliance.policy.rules import Policy
from appliance.sql.catalogue import Catalogue, ForeignKey, Function, Relation, TableColumn
from appliance.sql.reading import Reading, SessionView

SqlReader: TypeAlias = Callable[[str, Catalogue, SessionView], Reading]

# Where the server's own objects end (FirstNormalObjectId in access/transam.h).
_FIRST_OID = 16384
_TEXT_OID = 25
_TYPE_OIDS = {
    "bool": 16,
    "boolean": 16,
    "bytea": 17,
    "name": 19,
    "bigint": 20,
    "int8": 20,
    "smallint": 21,
    "int2": 21,
    "integer": 23,
    "int": 23,
    "int4": 23,
    "text": _TEXT_OID,
    "oid": 26,
    "json": 114,
    "real": 700,
    "float4": 700,
    "float8": 701,
    "integer[]": 1007,
    "text[]": 1009,
    "varchar": 1043,
    "date": 1082,
    "timestamp": 1114,
    "timestamptz": 1184,
    "numeric": 1700,
    "void": 2278,
    "uuid": 2950,
    "jsonb": 3802,
}
_FOREIGN_KEY_LETTERS = {"no action": "a", "restrict": "r", "cascade": "c", "set null": "n", "set default": "d"}
_SERVER_VERSION = 150000
SESSION_USED = effect(Action.CONNECT, Kind.SESSION)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a verdict must be. `rule` is asked for only where `asks_rule`; None in the others asks nothing."""

    verdict: str
    asks_rule: bool = False
    rule: str | None = None
    masks: frozenset[str] | None = None
    values: frozenset[str] | None = None
    approvers: frozenset[str] | None = None
    quiet: bool | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One test case; `command` or `effects` is set. `line` is where it begins in `file`."""

    file: str
    line: int
    name: str
    principal: Principal
    scope: Scope
    command: str | None
    effects: frozenset[Effect]
    expected: Expected


@dataclass(frozen=True)
class CaseFile:
    """The cases of one file, and what exists in the database they run against."""

    cases: tuple[Case, ...]
    catalogue: Catalogue


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case went: `differences` says, for each thing expected, what was seen instead; none: it passed."""

    case: Case
    explanation: Explanation
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.differences

    def text(self) -> str:
        """One line for a case that passed; for one that failed, why, and the whole explanation."""
        head = f"{'ok  ' if self.passed else 'FAIL'} {self.case.file}:{self.case.line} {self.case.name}"
        if self.passed:
            return head
        told = [f"     {difference}" for difference in self.differences]
        return "\n".join([head, *told, *(f"     | {line}" for line in self.explanation.text().splitlines())])


def read_cases(files: Sequence[tuple[str, str]], read: SqlReader) -> tuple[CaseFile, ...]:
    """The cases of (name, text) pairs. `read` is sql.analysis.read. Raises SettingErrors with every fault."""
    found: list[CaseFile] = []
    errors: list[SettingError] = []
    for name, text in files:
        try:
            reader = _Reader(read_checked(name, text, cases_schema()))
            found.append(reader.case_file(read))
            errors += reader.errors
        except SettingErrors as faults:
            errors += faults.errors
    if errors:
        raise SettingErrors(tuple(errors))
    return tuple(found)


def run_cases(policy: Policy, files: Sequence[CaseFile], read: SqlReader) -> tuple[CaseResult, ...]:
    """Every case of every file under a policy. `read` is sql.analysis.read."""
    return tuple(_run(policy, case, file.catalogue, read) for file in files for case in file.cases)


def command_effects(text: str, catalogue: Catalogue, read: SqlReader) -> frozenset[Effect]:
    """What an SQL text does, as the first command of a session. One that touches nothing (SELECT 1) still uses the
    session, which is how the inspector reports it, because a command without effects is refused."""
    return read(text, catalogue, SessionView(catalogue.search_path)).effects or frozenset({SESSION_USED})


@cache
def cases_schema() -> dict[str, Any]:
    """The published JSON Schema of a file of cases."""
    text = package_files("appliance.policy").joinpath("cases.schema.json").read_text("utf-8")
    return cast("dict[str, Any]", json.loads(text))


def _run(policy: Policy, case: Case, catalogue: Catalogue, read: SqlReader) -> CaseResult:
    effects = case.effects
    if case.command is not None:
        effects = command_effects(case.command, catalogue, read)
    explanation = explain(policy, case.principal, case.scope, effects)
    return CaseResult(case, explanation, tuple(_differences(case.expected, explanation.verdict)))


def _differences(expected: Expected, verdict: Verdict) -> list[str]:
    found: list[str] = []
    if verdict_word(verdict) != expected.verdict:
        found.append(f"expected {expected.verdict}, saw {describe_verdict(verdict)}")
    rule = verdict.rule.id if verdict.rule else None
    if expected.asks_rule and rule != expected.rule:
        found.append(f"expected the rule {expected.rule or 'none'}, saw {rule or 'none'}")
    obligations = None if isinstance(verdict, Refuse) else verdict.obligations
    if expected.masks is not None and expected.masks != masked_names(verdict):
        found.append(f"expected masks on {_listed(expected.masks)}, saw {_listed(masked_names(verdict))}")
    if expected.values is not None:
        values = frozenset(value.detector for value in obligations.values) if obligations else frozenset()
        if expected.values != values:
            found.append(f"expected the detectors {_listed(expected.values)}, saw {_listed(values)}")
    if expected.approvers is not None:
        approvers = verdict.terms.approvers if isinstance(verdict, Hold) else frozenset()
        if expected.approvers != approvers:
            found.append(f"expected the approvers {_listed(expected.approvers)}, saw {_listed(approvers)}")
    if expected.quiet is not None and (obligations is not None and obligations.quiet) != expected.quiet:
        found.append(f"expected quiet: {str(expected.quiet).lower()}, saw {str(not expected.quiet).lower()}")
    if expected.reason is not None and expected.reason not in verdict.reason:
        found.append(f"expected a reason with '{expected.reason}', saw '{verdict.reason}'")
    return found


def _words(expect: dict[str, Any], key: str) -> frozenset[str] | None:
    return frozenset(expect[key]) if key in expect else None


def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(words)) or "none"


class _Reader:
    """Reads one document that keeps to the schema; what the schema cannot say is added to `errors`."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._data = cast("dict[str, Any]", document.data)
        self.errors: list[SettingError] = []

    def case_file(self, read: SqlReader) -> CaseFile:
        database = self._data.get("where", {}).get("database", "shop")
        return CaseFile(
            tuple(self._case(raw, ("cases", number)) for number, raw in enumerate(self._data["cases"])),
            self._catalogue(self._data.get("catalogue", {}), database, read),
        )

    def _case(self, raw: dict[str, Any], path: Path) -> Case:
        who = {**self._data.get("who", {}), **raw.get("who", {})}
        where = {**self._data.get("where", {}), **raw.get("where", {})}
        if "agent" not in who or "phase" not in who:
            self._fault(path, "a case without who (agent and phase)", "who in the case, or once for the whole file")
        if "resource" not in where or "protocol" not in where:
            self._fault(
                path, "a case without where (resource and protocol)", "where in the case, or once for the whole file"
            )
        expect = raw["expect"]
        return Case(
            self._document.file,
            self._document.line(path),
            raw["name"],
            Principal(
                who.get("agent", ""),
                Phase(who.get("phase", "plan")),
                frozenset(who.get("groups", ())),
                established="test case",
            ),
            Scope(where.get("resource", ""), where.get("protocol", ""), where.get("database")),
            raw.get("command"),
            frozenset(self._effect(item, (*path, "effects", number)) for number, item in enumerate(raw.get("effects", ()))),
            Expected(
                expect["verdict"],
                "rule" in expect,
                expect.get("rule"),
                masks=_words(expect, "masks"),
                values=_words(expect, "values"),
                approvers=_words(expect, "approvers"),
                quiet=expect.get("quiet"),
                reason=expect.get("reason"),
            ),
        )

    def _effect(self, raw: dict[str, Any], path: Path) -> Effect:
        return Effect(
            Action(raw["action"]),
            Thing(Kind(raw["kind"]), self._path(raw.get("name"), (*path, "name"))),
            frozenset(raw.get("fields", ())),
            Use(raw["use"]) if "use" in raw else None,
            tuple(sorted(raw.get("attributes", {}).items())),
        )

    def _path(self, text: str | None, path: Path) -> tuple[str, ...]:
        if text is None:
            return ()
        try:
            parts = parse_path(text).parts
        except ValueError as error:
            self._fault(path, f"the name {text!r} with {error}", 'a dotted name, such as public.payroll or public."a.b"')
            return ()
        if parts is None or not all(part.is_exact for part in parts):
            self._fault(path, f"the name {text!r} with a star", "the name of one thing")
            return ()
        return tuple(part.pieces[0] for part in parts)

    def _catalogue(self, raw: dict[str, Any], database: str, read: SqlReader) -> Catalogue:
        search_path = tuple(raw.get("search_path", ("public",)))
        tables: dict[str, list[str]] = raw.get("tables", {})
        relations: list[Relation] = []
        for name, columns in tables.items():
            schema, table = name.split(".")
            relations.append(
                Relation(
                    _FIRST_OID + len(relations),
                    schema,
                    table,
                    "r",
                    tuple(
                        self._column(text, number, ("catalogue", "tables", name, number - 1))
                        for number, text in enumerate(columns, 1)
                    ),
                )
            )
        functions = tuple(
            self._function(name, item, _FIRST_OID + len(relations) + 1000 + number)
            for number, (name, item) in enumerate(raw.get("functions", {}).items())
        )
        oids = {f"{relation.schema}.{relation.name}": relation.oid for relation in relations}
        keys = tuple(
            key for number, item in enumerate(raw.get("foreign_keys", ())) if (key := self._foreign_key(item, oids, number))
        )
        schemas = frozenset(name.split(".")[0] for kind in ("tables", "views", "functions") for name in raw.get(kind, {}))
        version = blake2b(json.dumps(raw, sort_keys=True).encode(), digest_size=8).hexdigest()

        def catalogue() -> Catalogue:
            return Catalogue(
                version=f"{version}-{len(relations)}",
                server_version=_SERVER_VERSION,
                database=database,
                role="agent",
                search_path=search_path,
                schemas=schemas | frozenset(search_path) | {"pg_catalog", "information_schema"},
                relations=tuple(relations),
                functions=functions,
                foreign_keys=keys,
            )

        for name, query in raw.get("views", {}).items():
            # A view's columns are what its query shows, so they are read from it, in the light of what stands above it.
            path = ("catalogue", "views", name)
            reading = read(query, catalogue(), SessionView(()))
            outputs = reading.statements[0].outputs if len(reading.statements) == 1 else None
            if reading.problem is not None or outputs is None:
                said = reading.problem.message if reading.problem else "no rows"
                self._fault(
                    path, f"a query that gives {said}", "one SELECT over what is described above it, with qualified names"
                )
                continue
            schema, view = name.split(".")
            shown = tuple(TableColumn(number, output.name, _TEXT_OID) for number, output in enumerate(outputs, 1))
            relations.append(Relation(_FIRST_OID + len(relations), schema, view, "v", shown, definition=query))
        return catalogue()

    def _column(self, text: str, number: int, path: Path) -> TableColumn:
        name, _, type_name = text.partition(" ")
        return TableColumn(number, name, self._type(type_name or "text", path))

    def _function(self, name: str, raw: dict[str, Any], oid: int) -> Function:
        path = ("catalogue", "functions", name)
        schema, function = name.split(".")
        return Function(
            oid=oid,
            schema=schema,
            name=function,
            kind="p" if raw.get("procedure") else "f",
            argument_types=tuple(self._type(text, (*path, "arguments")) for text in raw.get("arguments", ())),
            language=raw["language"],
            volatility=raw.get("volatility", "volatile")[0],
            returns_set=raw.get("returns_set", False),
            security_definer=raw.get("security_definer", False),
            source=raw.get("body") if raw["language"] == "sql" else None,
        )

    def _foreign_key(self, raw: dict[str, Any], oids: dict[str, int], number: int) -> ForeignKey | None:
        path: Path = ("catalogue", "foreign_keys", number)
        for end in ("child", "parent"):
            if raw[end] not in oids:
                self._fault((*path, end), f"the table '{raw[end]}'", "one of the tables of this catalogue")
                return None
        return ForeignKey(
            oids[raw["child"]],
            tuple(raw["columns"]),
            oids[raw["parent"]],
            _FOREIGN_KEY_LETTERS[raw.get("on_delete", "no action")],
            _FOREIGN_KEY_LETTERS[raw.get("on_update", "no action")],
            tuple(raw.get("parent_columns", ())),
        )

    def _type(self, name: str, path: Path) -> int:
        if name not in _TYPE_OIDS:
            self._fault(path, f"the type '{name}'", f"one of {', '.join(_TYPE_OIDS)}")
        return _TYPE_OIDS.get(name, _TEXT_OID)

    def _fault(self, path: Path, found: str, expected: str) -> None:
        self.errors.append(self._document.error(path, found, expected))
