"""Where approvals are kept: an SQLite file of the control process, on disk before anybody acts upon what it says.

`approvals` has each case as it now is, `happenings` its history, only ever added to. What people may see stands in clear;
exact texts (a held command's, a changed one's) are sealed as recordings seal them, under a key of each opening of the file,
which `envelopes` keeps wrapped for the holder of the sealing key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from appliance.approvals.desk import Case, Figure, Happening, State
from appliance.errors import RecordingError
from appliance.ipc.messages import Shown
from appliance.recording.sealing import Envelope, Opener, Wrapped

_CONTEXT = b"sluicegate ledger 1"

_SCHEMA = """
create table if not exists approvals (
  id text primary key, flow text not null, number integer not null, bound text not null, principal text not null,
  resource text not null, state text not null, outcome text not null, decided_by text not null, reason text not null,
  why text not null, asked real not null, deadline real not null, decided real,
  approvers text not null, groups text not null, request blob not null, blast text
) strict;
create index if not exists approvals_by_command on approvals (flow, number);
create index if not exists approvals_unsettled on approvals (state) where state <> 'settled';
create table if not exists envelopes (id integer primary key, ephemeral blob not null, key blob not null) strict;
create table if not exists happenings (
  id integer primary key, approval text not null references approvals (id), time real not null, what text not null,
  by text not null, detail text not null, envelope integer references envelopes (id), sealed blob
) strict;
create index if not exists happenings_by_approval on happenings (approval);
"""

_COLUMNS = (
    "id, flow, number, bound, principal, resource, state, outcome, decided_by, reason, why, asked, deadline, decided, "
    "approvers, groups, request, blast"
)
_PAST_MAX = 1000
"""What one listing of settled approvals shows at most."""


class Ledger:
    """The desk's book. `seal_key` is the public sealing key, 32 raw bytes."""

    def __init__(self, file: Path, seal_key: bytes) -> None:
        """Raises RecordingError where the file can't be opened."""
        self._file = file
        self._envelope = Envelope(seal_key, _CONTEXT)
        wrapped = self._envelope.wrapped
        with self._failing():
            self._connection = sqlite3.connect(file, isolation_level=None)
            # Approvals are rare and each lets something happen that can't be taken back: on disk, every time.
            self._connection.executescript("pragma journal_mode = wal; pragma synchronous = full;" + _SCHEMA)
            self._connection.execute("begin immediate")
            columns = {row[1] for row in self._connection.execute("pragma table_info (approvals)")}
            if "blast" not in columns:  # a ledger from before there were figures
                self._connection.execute("alter table approvals add column blast text")
            self._connection.execute("commit")
            file.chmod(0o600)
            self._envelope_id = self._connection.execute(
                "insert into envelopes (ephemeral, key) values (?, ?)", (wrapped.ephemeral, wrapped.key)
            ).lastrowid

    def keep(self, case: Case, happening: Happening) -> None:
        request = msgspec.structs.replace(case.request, exact="", arguments=())
        row = (
            case.id,
            case.request.flow,
            case.request.number,
            case.request.bound,
            str(case.request.principal),
            case.request.scope.resource,
            case.state.value,
            case.outcome,
            case.by,
            case.reason,
            case.why,
            case.asked,
            case.deadline,
            case.decided,
            _names(case.approvers),
            _names(case.groups),
            msgspec.msgpack.encode(request),
            None if case.blast is None else msgspec.json.encode(case.blast).decode(),
        )
        sealed = None if happening.text is None else self._envelope.seal(happening.text)
        updates = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[1:])
        with self._failing():
            self._connection.execute("begin immediate")
            try:
                self._connection.execute(
                    f"insert into approvals ({_COLUMNS}) values ({', '.join('?' * len(row))}) "
                    f"on conflict (id) do update set {updates}",
                    row,
                )
                self._connection.execute(
                    "insert into happenings (approval, time, what, by, detail, envelope, sealed) "
                    "values (?, ?, ?, ?, ?, ?, ?)",
                    (
                        case.id,
                        happening.time,
                        happening.what,
                        happening.by,
                        happening.detail,
                        None if sealed is None else self._envelope_id,
                        sealed,
                    ),
                )
                self._connection.execute("commit")
            except sqlite3.Error:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise

    def find(self, flow: str, number: int, bound: str) -> Case | None:
        return next(
            self._cases("flow = ? and number = ? and bound = ? order by asked desc, rowid desc", flow, number, bound), None
        )

    def unsettled(self) -> list[Case]:
        return list(self._cases("state <> 'settled' order by asked"))

    def case(self, approval: str) -> Case | None:
        return next(self._cases("id = ?", approval), None)

    def settled(self, newest: int) -> list[Case]:
        """The newest settled cases, newest first."""
        return list(self._cases("state = 'settled' order by decided desc limit ?", min(newest, _PAST_MAX)))

    def history(self, approval: str) -> list[Happening]:
        """Everything that happened to an approval, in order, without the sealed texts."""
        with self._failing():
            rows = self._connection.execute(
                "select time, what, by, detail from happenings where approval = ? order by id", (approval,)
            ).fetchall()
        return [Happening(*row) for row in rows]

    def exact_texts(self, approval: str, private_key: X25519PrivateKey) -> list[tuple[str, str]]:
        """(what happened, exact text) for every sealed text of an approval, in order. Raises RecordingError."""
        with self._failing():
            rows = self._connection.execute(
                "select what, sealed, ephemeral, key from happenings join envelopes on envelopes.id = envelope "
                "where approval = ? order by happenings.id",
                (approval,),
            ).fetchall()
        return [
            (what, Opener(private_key, Wrapped(ephemeral, key), _CONTEXT).open(sealed))
            for what, sealed, ephemeral, key in rows
        ]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _cases(self, where: str, *values: object) -> Iterator[Case]:
        with self._failing():
            rows = self._connection.execute(f"select {_COLUMNS} from approvals where {where}", values).fetchall()
        for row in rows:
            yield Case(
                id=row[0],
                request=msgspec.msgpack.decode(row[16], type=Shown),
                approvers=_set(row[14]),
                asked=row[11],
                deadline=row[12],
                owner=None,
                state=State(row[6]),
                outcome=row[7],
                by=row[8],
                groups=_set(row[15]),
                reason=row[9],
                why=row[10],
                decided=row[13],
                blast=None if row[17] is None else msgspec.json.decode(row[17], type=tuple[Figure, ...]),
            )

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RecordingError(f"the ledger {self._file} can't be used: {error}") from error


def _names(names: frozenset[str]) -> str:
    return msgspec.json.encode(sorted(names)).decode()


def _set(text: str) -> frozenset[str]:
    return frozenset(msgspec.json.decode(text, type=list[str]))
