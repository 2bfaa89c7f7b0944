"""Recorded before sent, when the disk is full, when a journal is tampered with, and when links are planted."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from appliance.errors import RecordingError
from appliance.recording.places import lay_out
from lab.laboratory import CONTROL_UID, WORKER_UID, Lab
from tests.whole_machine.scene import Client, Scene, play, until

pytestmark = pytest.mark.real

JOURNALS_BYTES = 1 << 20


def journals_of(lab: Lab) -> Path:
    return lab.appliance_folder / "state" / "journals"


@contextmanager
def small_journals() -> Iterator[Scene]:
    """A scene whose workers write their journals to a very small file system of its own."""
    mounted: list[Path] = []

    def mount(lab: Lab) -> None:
        folder = journals_of(lab)
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={JOURNALS_BYTES}", "sluicegate-test", str(folder)], check=True)
        mounted.append(folder)

    name = f"test-{secrets.token_hex(4)}"
    try:
        with play(name, mount) as scene:
            try:
                yield scene
            finally:
                scene.leave()
                scene.lab.stop_appliance()
                for folder in mounted:
                    subprocess.run(["umount", str(folder)], check=True)
                mounted.clear()
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
        Lab(name).down()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with play(f"test-{secrets.token_hex(4)}") as scene:
        yield scene


def run_until_it_breaks(client: Client, mark: str) -> str:
    """Statements, each with a tag and 8,000 bytes, until one is not answered: its tag."""
    for number in range(1_000):
        tag = f"{mark}_{number:04d}"
        try:
            client.run(f"update staging set v = '{tag} {'x' * 8000}' where id = 1")
        except psycopg.OperationalError:
            return tag
    raise AssertionError("the disk did not fill")


def test_what_cannot_be_recorded_is_not_sent_and_its_flow_stops() -> None:
    with small_journals() as scene:
        mark = f"mark_{secrets.token_hex(4)}"
        clients = [scene.client() for _ in range(2)]
        broken = [run_until_it_breaks(client, f"{mark}_{number}") for number, client in enumerate(clients)]
        assert broken[0] > f"{mark}_0_0010"
        for tag in broken:
            assert scene.logged(tag) == []
        assert "the journal cannot be written" in scene.log()
        assert '"event": "gives up"' in scene.log()
        # What a worker has left behind is taken in, so there is room again and it is served again, by itself.
        until(scene.is_served)
        ran = {line.split("'")[1].split()[0] for line in scene.logged(mark)}
        recorded = {
            one["shown"].split("'")[1].split()[0]
            for one in scene.records()
            if one["type"] == "command" and mark in one["shown"]
        }
        assert len(ran) > 20
        assert ran <= recorded
        # While there is no room at all, nobody gets in and nobody hangs.
        filler = journals_of(scene.lab) / "filler"

        def is_refused() -> bool:
            # What a worker has left behind is taken in and makes room for the next one.
            fill(filler)
            began = time.monotonic()
            is_served = scene.is_served()
            assert is_served or time.monotonic() - began < 2
            return not is_served

        until(is_refused)
        filler.unlink()
        until(scene.is_served)


def fill(file: Path) -> None:
    """Leave less than a page of the file system that the file is on."""
    with file.open("ab", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"x" * 4096)


def grow(journal: Path) -> None:
    with journal.open("ab") as file:
        file.write(b"\x00\x00\x00\x08" + secrets.token_bytes(40))


def shrink(journal: Path) -> None:
    os.truncate(journal, journal.stat().st_size // 2)


@pytest.mark.parametrize(
    ("tamper", "alarm"),
    [(grow, "broken chain"), (shrink, "journal shrunk"), (Path.unlink, "journal gone")],
    ids=["grown", "shrunk", "removed"],
)
def test_a_worker_whose_journal_is_tampered_with_is_ended(scene: Scene, tamper: object, alarm: str) -> None:
    until(scene.serves)
    clients = scene.clients_on_both()
    processes = scene.workers()
    (journal,) = journals_of(scene.lab).glob(f"w0-*-{processes[0]}-*.journal")
    scene.ask("drain")
    tamper(journal)  # type: ignore[operator]
    until(lambda: scene.workers().get(0, processes[0]) != processes[0])
    for client in clients[0]:
        with pytest.raises(psycopg.OperationalError):
            client.run("select 1")
    for client in clients[1]:
        assert client.run("select 1") == [(1,)]
    assert scene.workers()[1] == processes[1]
    assert '"event": "worker distrusted"' in scene.log()
    assert any(one.startswith(alarm) for one in scene.ask("status")["recording"]["alarms"])
    until(scene.serves)
    until(scene.is_served)
    scene.leave()


@pytest.mark.parametrize("name", ["quarantine", "keys"])
def test_a_link_in_a_folders_place_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    state = tmp_path / "state"
    places = lay_out(state, (WORKER_UID, WORKER_UID), (CONTROL_UID, CONTROL_UID))
    assert places.quarantine.stat().st_uid == CONTROL_UID
    planted = places.quarantine if name == "quarantine" else places.keys
    planted.rmdir()
    planted.symlink_to(victim)
    with pytest.raises(RecordingError, match=name):
        lay_out(state, (WORKER_UID, WORKER_UID), (CONTROL_UID, CONTROL_UID))
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o7777) == (0, 0o755)


def test_the_appliance_does_not_start_over_a_planted_link(scene: Scene) -> None:
    scene.lab.stop_appliance()
    quarantine = scene.lab.appliance_folder / "state" / "recording" / "quarantine"
    victim = scene.lab.folder / "victim"
    victim.mkdir(mode=0o755)
    aside = quarantine.with_name("aside")
    quarantine.rename(aside)
    quarantine.symlink_to(victim)
    done = scene.lab.run_sluicegate("up")
    assert done.returncode == 1
    assert "expected a folder of its own, not a link" in done.stderr
    assert victim.stat().st_uid == 0
