"""A control process for a test: its folder, its configuration, and its end."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.control.hosting import ROOT, Hosted
from tests.scratch_postgres import ScratchPostgres


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own: another user has to reach the sockets.
    made = Path(tempfile.mkdtemp(prefix="control-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def hosted(folder: Path, scratch_postgres: ScratchPostgres) -> Iterator[Hosted]:
    (folder / "policies").mkdir()
    (folder / "policies" / "rules.yaml").write_text((ROOT / "policies" / "open" / "open.yaml").read_text())
    (folder / "password").write_text("pencil\n")
    (folder / "password").chmod(0o600)
    (folder / "sluicegate.yaml").write_text(
        yaml.safe_dump(
            {
                "agents": {
                    "migrator": {
                        "owner": "crew",
                        "phases": {"plan": {"sources": ["10.1.0.5"]}, "execute": {"sources": ["10.1.0.6"]}},
                    }
                },
                "resources": {
                    "shop": {
                        "protocol": "postgres",
                        "addresses": [f"127.0.0.1:{scratch_postgres.port}"],
                        "credential": "owner",
                        "tls": {"target": "disable"},
                    }
                },
                "credentials": {"owner": {"user": "postgres", "password": {"file": str(folder / "password")}}},
                "networks": {"executors": {"interfaces": ["lo"]}},
                "policies": [str(folder / "policies")],
                "approvers": {"root": {"groups": ["dba"]}, "nobody": {"groups": ["security"]}},
                "appliance": {
                    "state": str(folder / "state"),
                    "run": str(folder / "run"),
                },
            }
        )
    )
    made = Hosted(folder)
    made.start()
    try:
        yield made
    finally:
        if made.process is not None:
            made.end(signal.SIGKILL)
