"""The PostgreSQL server of a lab's target: made once, copied for each lab, with a way in for the lab alone."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg import sql

from lab import processes
from lab.machines import TARGET, LabError, Place, inside

BINARIES: Final = Path("/usr/lib/postgresql/15/bin")
OWNER: Final = "shop_owner"
SHOP: Final = "shop"
PORT: Final = 5432
SHOP_SQL: Final = Path(__file__).with_name("shop.sql")

# The account Debian's package makes; PostgreSQL will not run as root.
_ACCOUNT: Final = "postgres"
_START_SECONDS: Final = 30
_SETTINGS: Final = """
listen_addresses = '*'
port = 5432
max_connections = 200
shared_buffers = '32MB'
# A lab may lose its data.
fsync = off
synchronous_commit = off
full_page_writes = off
max_prepared_transactions = 10
password_encryption = 'scram-sha-256'
ssl = on
timezone = 'UTC'
log_timezone = 'UTC'
# Every statement, as one JSON object a line, for tests that compare it with what the appliance recorded.
log_statement = 'all'
log_destination = 'jsonlog'
logging_collector = on
log_filename = 'postgres'
log_rotation_age = 0
log_rotation_size = 0
"""
# The socket is in a folder that only root and the server's account may enter: it is the way in for the lab itself.
_ACCESS: Final = """
local   all          all                  trust
hostssl all          all  0.0.0.0/0       scram-sha-256
hostssl all          all  ::/0            scram-sha-256
host    all          all  0.0.0.0/0       scram-sha-256
host    all          all  ::/0            scram-sha-256
"""


class Database:
    """The server of one lab. Its files are below `folder`."""

    def __init__(self, lab: str, folder: Path, cache: Path, known: Path) -> None:
        self._lab = lab
        self._folder = folder
        self._cache = cache
        self._known = known
        self._data = folder / "data"
        self.socket = folder / "socket"
        self.authorities = folder / "authority.pem"
        self.log = folder / "log" / "postgres.json"

    def start(self) -> str:
        """Make the server's files, start it, and answer the password of OWNER. Ready for connections when this returns."""
        account = _account()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o755)
        for name in ("log", "socket"):
            (self._folder / name).mkdir()
            os.chown(self._folder / name, account.pw_uid, account.pw_gid)
            (self._folder / name).chmod(0o700)
        _copy(_prepared(self._cache), self._data)
        self._make_certificate(account)
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(f"unix_socket_directories = '{self.socket}'\nlog_directory = '{self.log.parent}'\n")
            settings.write(f"ssl_cert_file = '{self._folder / 'server.pem'}'\n")
            settings.write(f"ssl_key_file = '{self._folder / 'server.key'}'\n")
        self._control("start")
        processes.remember(self._known, self._server())
        password = secrets.token_urlsafe(24)
        self.run(sql.SQL("alter role {} password {}").format(sql.Identifier(OWNER), sql.Literal(password)))
        return password

    def start_again(self, settings: Mapping[str, str]) -> None:
        """Put server settings in force over those it has and start it anew: connections break."""
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._control("restart")
        processes.remember(self._known, self._server())

    def stop(self) -> None:
        """End the server at once; its shared memory goes with it, which it would not if it were killed."""
        try:
            server = self._server()
        except (FileNotFoundError, ValueError):
            return
        if server in processes.remembered(self._known):
            processes.end([server], signal.SIGQUIT, 10.0)

    def is_answering(self) -> bool:
        """Whether the server takes connections."""
        asked = subprocess.run([BINARIES / "pg_isready", "-q", "-h", self.socket], check=False, env=_ENVIRONMENT)
        return asked.returncode == 0

    def run(self, statement: str | sql.Composed, database: str = SHOP, user: str = OWNER) -> list[tuple[Any, ...]]:
        """Run SQL directly at the server, past the appliance, and answer the rows of the last result (none: empty list).
        Several statements are one transaction unless they say otherwise; one alone runs outside of any."""
        with psycopg.connect(host=str(self.socket), port=PORT, dbname=database, user=user, autocommit=True) as connection:
            cursor = connection.execute(statement.encode() if isinstance(statement, str) else statement)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description is not None else []

    def fresh(self, name: str, contents: str) -> None:
        """Make (anew, if it is there) a database as `contents` (SQL, run as OWNER) fills an empty one. The first time for
        the same contents runs them; later times copy."""
        template = "template_" + hashlib.sha256(contents.encode()).hexdigest()[:24]
        if not self.run(f"select 1 from pg_database where datname = '{template}' and datistemplate", "postgres"):
            self.drop(template)
            self.run(f"create database {template} template template0 encoding 'UTF8'", "postgres")
            self.run(contents, template)
            self.run(f"alter database {template} is_template true", "postgres")
        self.drop(name)
        self.run(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template)), "postgres"
        )

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it; not there: nothing happens."""
        self.run(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)), "postgres")

    def logged(self) -> Iterator[dict[str, Any]]:
        """The server's own log from its start, entry after entry: timestamp, pid, session_id, remote_host, user, dbname,
        message ("statement: …", "execute name: …") and the like (PostgreSQL manual, 20.8.5)."""
        with self.log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                # The last line may be half written.
                if line.endswith("\n"):
                    yield json.loads(line)

    def _control(self, action: str) -> None:
        """Run pg_ctl, until the server is ready for connections."""
        output = self._folder / "log" / "output"
        words: list[str | Path] = [BINARIES / "pg_ctl", action, "--wait", f"--timeout={_START_SECONDS}"]
        done = subprocess.run(
            [*inside(self._lab, Place.TARGET, _account().pw_uid), *words, "-D", self._data, "-l", output],
            stdin=subprocess.DEVNULL,
            # Not a pipe: the server would inherit it and hold it open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            cwd="/",
            env=_ENVIRONMENT,
        )
        if done.returncode:
            said = output.read_text(errors="replace") if output.exists() else "(it said nothing)"
            raise LabError(f"PostgreSQL did not start: {said.strip()[-2000:]}")

    def _server(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])

    def _make_certificate(self, account: pwd.struct_passwd) -> None:
        """An authority that signs this one certificate and is forgotten."""
        now = datetime.datetime.now(datetime.UTC)
        authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab target authority")])
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.target.lab")])

        def begin(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(authority_name)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(days=30))
            )

        authority = (
            begin(authority_name, authority_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(authority_key, hashes.SHA256())
        )
        names: list[x509.GeneralName] = [x509.DNSName("shop.target.lab")]
        names += [x509.IPAddress(ip_address(address)) for address in (TARGET.ipv4, TARGET.ipv6)]
        leaf = (
            begin(name, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(authority_key, hashes.SHA256())
        )
        self.authorities.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        (self._folder / "server.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        private = self._folder / "server.key"
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        os.chown(private, account.pw_uid, account.pw_gid)


_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_ACCOUNT)
    except KeyError as error:
        raise LabError("there is no user postgres: PostgreSQL is not installed; ./run setup installs it") from error


def _prepared(cache: Path) -> Path:
    """A data directory with the shop loaded, made once for each content of this file and of shop.sql."""
    if not (BINARIES / "initdb").exists():
        raise LabError(f"{BINARIES} has no initdb; ./run setup installs PostgreSQL 15")
    inputs = [
        Path(__file__).read_bytes(),
        SHOP_SQL.read_bytes(),
        (BINARIES / "postgres").stat().st_mtime_ns.to_bytes(8, "big"),
    ]
    ready = cache / f"postgres-{hashlib.sha256(b''.join(hashlib.sha256(part).digest() for part in inputs)).hexdigest()[:24]}"
    if ready.exists():
        return ready
    account = _account()
    cache.mkdir(parents=True, exist_ok=True)
    building = cache / f"building-{secrets.token_hex(8)}"
    building.mkdir(mode=0o700)
    os.chown(building, account.pw_uid, account.pw_gid)
    as_account = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--"]
    data = building / "data"

    def run(command: list[str | Path], text: str | None = None) -> None:
        done = subprocess.run(
            [*as_account, *command], input=text, capture_output=True, text=True, check=False, cwd="/", env=_ENVIRONMENT
        )
        if done.returncode:
            raise LabError(f"{command[0]}: {done.stderr.strip()[-2000:]}")

    def single(database: str, text: str) -> None:
        # Without a server: nothing listens anywhere while it is being made. -j: a statement ends at an empty line.
        run([BINARIES / "postgres", "--single", "-j", "-D", data, "-c", "exit_on_error=on", database], text)

    try:
        run([BINARIES / "initdb", "-D", data, "-U", _ACCOUNT, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-A", "trust"])
        single("postgres", f"create role {OWNER} superuser login;\n\ncreate database {SHOP} owner {OWNER};\n\n")
        single(SHOP, f"set session authorization {OWNER};\n\n{SHOP_SQL.read_text().replace(chr(10) * 2, chr(10))}\n\n")
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(_SETTINGS)
        (data / "pg_hba.conf").write_text(_ACCESS)
        try:
            data.rename(ready)
        except OSError:
            # Another lab made it at the same time.
            if not ready.exists():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return ready


def _copy(source: Path, to: Path) -> None:
    done = subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(to)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"copying the prepared server: {done.stderr.strip()}")
