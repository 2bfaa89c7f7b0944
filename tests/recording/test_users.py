"""Workers, control and root are different users: what each may do to a recording, as the kernel sees it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from appliance.recording.places import Places, lay_out
from appliance.recording.reader import list_flows, read_all
from appliance.recording.records import Commanded
from appliance.recording.verify import verify

WORKER, CONTROL = 61001, 61002

APPEND = """
import os, sys, time
from pathlib import Path
from appliance.recording.journal import Journal
from tests.recording.recorded import command
os.umask(0o077)
journal = Journal(Path(sys.argv[1]) / "journals", 0, bytes.fromhex(sys.argv[2]), time.time_ns(), 400)
for number in range(1, 11):
    journal.append(command("f", number))
journal.sync()
"""
MAKE_KEYS = """
import sys
from pathlib import Path
from appliance.recording.keys import make_or_load
from appliance.recording.places import Places
print(make_or_load(Places(Path(sys.argv[1]))).seal_key.hex())
"""
DRAIN = """
import sys
from pathlib import Path
from appliance.recording.keeper import Keeper
from appliance.recording.keys import make_or_load
from appliance.recording.places import Places
places = Places(Path(sys.argv[1]))
keeper = Keeper(places, make_or_load(places))
while keeper.drain():
    pass
keeper.close()
"""
MEDDLE = """
import os, sys
state = sys.argv[1]
done = []
for act in (
    lambda: os.listdir(state + "/recording"),
    lambda: open(state + "/recording/segment-000001.sqlite", "rb"),
    lambda: open(state + "/recording/head.json", "wb"),
    lambda: open(state + "/keys/signing.key", "rb"),
    lambda: open(state + "/keys/sealing.key", "rb"),
    lambda: os.rename(state + "/recording", state + "/journals/mine"),
    lambda: os.unlink(state + "/recording/heads.jsonl"),
):
    try:
        done.append(act())
    except PermissionError:
        pass
sys.exit(len(done))
"""


@pytest.fixture
def state() -> Iterator[Path]:
    # Not under pytest's own folder, which other users may not enter.
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "state"


def _run(user: int, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-c", code, *arguments],
        user=user,
        group=user,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )


def _done(user: int, code: str, *arguments: str) -> str:
    result = _run(user, code, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_worker_appends_control_keeps_and_root_reads(state: Path) -> None:
    lay_out(state, (WORKER, WORKER), (CONTROL, CONTROL))
    seal_key = _done(CONTROL, MAKE_KEYS, str(state))
    _done(WORKER, APPEND, str(state), seal_key)
    _done(CONTROL, DRAIN, str(state))
    places = Places(state)
    assert list(places.journals.iterdir()) == []
    # Root reads while nobody keeps it open; control must be able to go on afterwards.
    assert list_flows(places)[0].commands == 10
    assert verify(state).is_sound
    _done(WORKER, APPEND, str(state), seal_key)
    _done(CONTROL, DRAIN, str(state))
    assert len([one for one in read_all(places) if isinstance(one.record, Commanded)]) == 20
    assert verify(state).is_sound


def test_a_worker_reaches_neither_segments_nor_heads_nor_keys(state: Path) -> None:
    lay_out(state, (WORKER, WORKER), (CONTROL, CONTROL))
    seal_key = _done(CONTROL, MAKE_KEYS, str(state))
    _done(WORKER, APPEND, str(state), seal_key)
    _done(CONTROL, DRAIN, str(state))
    assert _run(WORKER, MEDDLE, str(state)).returncode == 0
    assert _run(0, MEDDLE, str(state)).returncode > 0
