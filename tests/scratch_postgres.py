"""A real PostgreSQL of our own for tests: how one is made, given databases, and taken down.

The server runs as the machine's `postgres` user in a folder of its own, on a Unix socket and a loopback port, trusts
everybody, and has the superuser `postgres`. It keeps nothing and is stopped by the process id in its own folder.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

_PROGRAMS = Path("/usr/lib/postgresql/15/bin")
_OWNER = "postgres"


@dataclass
class ScratchPostgres:
    """A running server. `host` and `port` are TCP; `folder` is the data folder, whose parent holds the Unix socket too."""

    host: str
    port: int
    folder: Path
    _templates: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    @property
    def socket_folder(self) -> str:
        """The folder of the Unix socket, for `host=` of a connection string."""
        return str(self.folder.parent)

    def connection_string(self, database: str = "postgres", user: str = "postgres") -> str:
        """For psycopg and libpq, over TCP without TLS."""
        return f"host={self.host} port={self.port} dbname={database} user={user} sslmode=disable"

    def run(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """The rows of the last statement of `sql`, run as the superuser, each text a simple Query of its own."""
        with psycopg.connect(self.connection_string(database), autocommit=True) as connection:
            cursor = connection.execute(sql)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def fresh_database(self, sql: str | Path = "") -> str:
        """The name of a new database in which `sql` (a text, or a file of it) has been run. The same text is run once
        only and copied from then on."""
        text = sql.read_text(encoding="utf-8") if isinstance(sql, Path) else sql
        if text not in self._templates:
            template = self._new_name()
            self.run(f"create database {template} template template0")
            if text:
                self.run(text, template)
            self._templates[text] = template
        name = self._new_name()
        self.run(f"create database {name} template {self._templates[text]}")
        return name

    def _new_name(self) -> str:
        self._count += 1
        return f"scratch_{self._count}"


def start(folder: Path, *options: str) -> ScratchPostgres:
    """Start a server under `folder`, which must be empty and changes hands. `options` are "name=value" settings."""
    if not (_PROGRAMS / "postgres").exists():
        pytest.fail(f"there is no PostgreSQL in {_PROGRAMS}; install the package postgresql-15")
    data = folder / "data"
    if os.geteuid() == 0:
        owner = pwd.getpwnam(_OWNER)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    _run_as_owner("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N")
    port = _free_port()
    settings = (
        "fsync=off",
        "full_page_writes=off",
        f"port={port}",
        "listen_addresses=127.0.0.1",
        f"unix_socket_directories={folder}",
        "max_connections=200",
        *options,
    )
    words = " ".join(f"-c {setting}" for setting in settings)
    _run_as_owner("pg_ctl", "start", "-w", "-s", "-D", str(data), "-l", str(folder / "log"), "-o", words)
    return ScratchPostgres("127.0.0.1", port, data)


def stop(server: ScratchPostgres) -> None:
    """Stop that server at once."""
    _run_as_owner("pg_ctl", "stop", "-w", "-s", "-m", "immediate", "-D", str(server.folder))


@pytest.fixture(scope="session")
def scratch_postgres() -> Iterator[ScratchPostgres]:
    """One PostgreSQL 15 for the whole run of the tests; take `fresh_database` for what must be one's own."""
    folder = Path(tempfile.mkdtemp(prefix="scratch-postgres-"))
    try:
        server = start(folder)
        try:
            yield server
        finally:
            stop(server)
    finally:
        shutil.rmtree(folder)


def _run_as_owner(program: str, *arguments: str) -> None:
    """Run one of the server's programs as its owner, because the server refuses to run as root."""
    as_owner = {"user": _OWNER, "group": _OWNER, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [str(_PROGRAMS / program), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
        cwd="/",
        timeout=120,
        check=False,
        **as_owner,  # type: ignore[call-overload]
    )
    if done.returncode:
        pytest.fail(f"{program} failed with status {done.returncode}: {(done.stderr or b'').decode(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
