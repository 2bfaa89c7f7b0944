"""The import walls: which room may know which, and what pure rooms must not touch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the outside in. A room may import rooms of its own ring where it stands beside them, and every ring further in.
RINGS: tuple[frozenset[str], ...] = (
    frozenset({"appliance.__main__"}),
    frozenset({"ui"}),
    frozenset({"appliance.control"}),
    frozenset({"appliance.flow"}),
    frozenset({"kernel", "appliance.supervision", "appliance.configuration"}),
    frozenset(
        {"appliance.approvals", "appliance.recording", "appliance.identity", "appliance.credentials", "appliance.tls"}
    ),
    frozenset({"appliance.ipc"}),
    # It does I/O, so pure rooms are further in and never see it.
    frozenset({"appliance.log", "appliance.catching"}),
    frozenset({"appliance.protocols", "appliance.policy"}),
    frozenset({"appliance.sql"}),
    frozenset({"appliance.masking"}),
    frozenset(
        {
            "appliance.settings",
            "appliance.documents",
            "appliance.events",
            "appliance.decisions",
            "appliance.effects",
            "appliance.parties",
            "appliance.errors",
        }
    ),
)
RING_OF = {room: number for number, ring in enumerate(RINGS) for room in ring}
# Rooms of one ring that keep apart all the same: they are joined further out.
APART = frozenset(
    {"appliance.approvals", "appliance.recording", "appliance.identity", "appliance.credentials", "appliance.tls"}
)
# The desk's ledger seals exact texts the way recordings do.
ALLOWED_BESIDE = frozenset({("appliance.approvals", "appliance.recording")})
# People's side talks to control by ipc alone; it reads recordings and files, never the data plane.
UI_MAY_NOT = frozenset(
    {"appliance.control", "appliance.flow", "appliance.approvals", "appliance.credentials", "appliance.supervision"}
)
PURE = ("appliance.protocols", "appliance.sql", "appliance.policy", "appliance.masking", *RINGS[-1])
IMPURE = frozenset({"asyncio", "socket", "ssl", "sqlite3", "threading", "subprocess", "os", "time", "random"})


def room_of(module: str) -> str | None:
    """The room a module belongs to, or None for what is not ours."""
    for room in sorted(RING_OF, key=len, reverse=True):
        if module == room or module.startswith(room + "."):
            return room
    return None


def imports_of(source: str) -> Iterator[str]:
    """Every module that a source file imports, names from packages spelled out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def breaches(module: str, source: str) -> list[str]:
    """What a file does against the walls, in words."""
    found = []
    room = room_of(module)
    if room is None:
        return [f"{module} belongs to no room that this test knows"]
    is_pure = any(module == pure or module.startswith(pure + ".") for pure in PURE)
    for name in imports_of(source):
        top = name.split(".")[0]
        if is_pure and top in IMPURE:
            found.append(f"{module} is pure and imports {top}")
        other = room_of(name)
        if other is None or other == room:
            if room == "appliance.protocols" == other:
                mine, theirs = module.split(".")[2:3], name.split(".")[2:3]
                shared = (["inspector"], ["opaque"], [])
                if (
                    mine != theirs
                    and theirs not in shared
                    and (mine, theirs) != (["kubernetes"], ["http"])
                    and mine not in shared
                ):
                    found.append(f"{module} imports another protocol's room: {name}")
            continue
        if RING_OF[other] < RING_OF[room]:
            found.append(f"{module} imports outwards: {name}")
        elif RING_OF[other] == RING_OF[room] and other in APART and (room, other) not in ALLOWED_BESIDE:
            found.append(f"{module} imports a room beside it: {name}")
        if room == "ui" and other in UI_MAY_NOT:
            found.append(f"{module} reaches behind the sockets: {name}")
    return found


def modules() -> list[tuple[str, Path]]:
    """Every module of the product with its file; packages' own files by the package's name."""
    found = []
    for top in ("appliance", "kernel", "ui"):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), file))
    return [(name, file) for name, file in found if name != "appliance"]


@pytest.mark.parametrize(("module", "file"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_no_module_breaks_a_wall(module: str, file: Path) -> None:
    assert breaches(module, file.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("appliance.protocols.postgres.session", "import socket"),
        ("appliance.sql.analysis", "from time import time"),
        ("appliance.events", "import os.path"),
        ("appliance.policy.rules", "from appliance.flow.gate import Gate"),
        ("appliance.protocols.redis.inspector", "from appliance.protocols.postgres import messages"),
        ("appliance.flow.relay", "import appliance.control.process"),
        ("appliance.credentials.vault", "from appliance.identity import attribution"),
        ("ui.cli", "from appliance.control import people"),
        ("appliance.ipc.channel", "from appliance.recording import journal"),
        ("kernel.origins", "from appliance import flow"),
    ],
)
def test_a_broken_wall_is_seen(module: str, source: str) -> None:
    assert breaches(module, source)
