"""The supervisor with real children in a real namespace: who they are, and what happens when one of them, or it, dies."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from appliance.catching import read_look
from appliance.log import FORM_VARIABLE
from appliance.settings import Settings
from appliance.supervision import worker_count
from kernel.gateway import catch
from lab import machines
from lab.machines import TARGET, Place
from tests.kernel.conftest import NETWORKS, Machines

pytestmark = pytest.mark.real
ROOT = Path(__file__).resolve().parents[2]


class Running:
    """A supervisor and what it says."""

    def __init__(self, three: Machines, folder: Path, workers: int, broken: str) -> None:
        self.three = three
        self.folder = folder
        self.log: list[str] = []
        ready, announce = os.pipe()
        words = [*machines.inside(three.name, Place.APPLIANCE), sys.executable, "-P", "-m", "tests.kernel.dummy_appliance"]
        self.process = subprocess.Popen(
            [*words, "supervise", str(folder), str(announce), str(workers), broken],
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(announce,),
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "HOME": "/root",
                FORM_VARIABLE: "text",
                "SECRET": "of the supervisor",
            },
        )
        os.close(announce)
        self.ready = ready

    @property
    def said(self) -> IO[str]:
        assert self.process.stderr is not None
        return self.process.stderr

    def until(self, words: str) -> str:
        """The next line of the log with these words. Fails when the log ends without."""
        for line in self.said:
            self.log.append(line)
            if words in line:
                return line
        raise AssertionError(f"{words!r} not in {self.log}")

    def child(self, name: str) -> int:
        """The process id of a child's latest life."""
        line = [line for line in self.log if line.startswith("supervisor started") and f"name='{name}'" in line][-1]
        return int(line.rpartition("pid=")[2])

    def greeting(self, address: str = TARGET.ipv4) -> str:
        with self.three.socket(Place.EXECUTOR, socket.AF_INET6 if ":" in address else socket.AF_INET) as one:
            one.settimeout(5)
            one.connect((address, 5432))
            return one.recv(64).decode()


@pytest.fixture
def running(three: Machines, tmp_path: Path) -> Iterator[Running]:
    yield from _run(three, tmp_path, 2, "whole")


def _run(three: Machines, folder: Path, workers: int, broken: str) -> Iterator[Running]:
    folder.chmod(0o711)
    with three.inside(Place.APPLIANCE):
        catch(NETWORKS, three.memory)
    one = Running(three, folder, workers, broken)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        one.said.close()
        os.close(one.ready)


def is_gone(process: int) -> bool:
    """Whether it ends within five seconds."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 5)[0])
    finally:
        os.close(descriptor)


def test_ready_is_said_once_all_serve_both_families(running: Running) -> None:
    assert os.read(running.ready, 64) == b"ready\n"
    assert os.read(running.ready, 64) == b""
    for address in TARGET:
        assert running.greeting(address).startswith("worker ")


def test_children_are_other_users_without_any_power(running: Running) -> None:
    running.until("supervisor ready")
    for name, uid in (("control", 61002), ("worker 0", 61001), ("worker 1", 61001)):
        process = Path("/proc", str(running.child(name)))
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        assert status["Uid"].split() == [str(uid)] * 4
        assert status["Gid"].split() == [str(uid)] * 4
        assert status["Groups"].split() == []
        assert {int(status[f"Cap{which}"], 16) for which in ("Prm", "Eff", "Amb")} == {0}
        assert status["NoNewPrivs"].strip() == "1"
        names = {one.split(b"=")[0] for one in (process / "environ").read_bytes().split(b"\0") if one}
        assert not names & {b"SECRET", b"HOME"}
        assert os.getsid(running.child(name)) == running.child(name)
        soft, hard = (process / "limits").read_text().split("Max open files")[1].split()[:2]
        assert soft == hard


def test_folders_belong_to_those_who_write_there(running: Running) -> None:
    running.until("supervisor ready")
    owners = {"state/journals": (61001, 0o2770), "state/control": (61002, 0o700), "run": (61002, 0o755)}
    for name, (uid, mode) in owners.items():
        found = (running.folder / name).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (uid, 61002, mode)


def test_a_dead_worker_comes_back_and_the_other_serves_meanwhile(running: Running) -> None:
    running.until("supervisor ready")
    dead = running.child("worker 0")
    os.kill(dead, signal.SIGSTOP)
    os.kill(dead, signal.SIGKILL)
    assert "SIGKILL" in running.until("supervisor ended")
    assert {running.greeting() for _ in range(16)} <= {"worker 0", "worker 1"}
    running.until("supervisor serving: name='worker 0'")
    assert running.child("worker 0") != dead
    seen = set()
    deadline = time.monotonic() + 5
    while len(seen) < 2 and time.monotonic() < deadline:
        seen.add(running.greeting())
    assert seen == {"worker 0", "worker 1"}


def test_dead_control_comes_back(running: Running) -> None:
    running.until("supervisor ready")
    dead = running.child("control")
    os.kill(dead, signal.SIGKILL)
    running.until("supervisor serving: name='control'")
    assert running.child("control") != dead


def test_when_the_supervisor_is_killed_all_go_and_executors_are_refused(running: Running) -> None:
    running.until("supervisor ready")
    children = [running.child(name) for name in ("control", "worker 0", "worker 1")]
    running.process.kill()
    running.process.wait()
    assert all(is_gone(child) for child in children)
    for address in TARGET:
        start = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            running.greeting(address)
        assert time.monotonic() - start < 1


def test_an_orderly_end_takes_workers_first_and_exits_with_zero(running: Running) -> None:
    running.until("supervisor ready")
    children = [running.child(name) for name in ("control", "worker 0", "worker 1")]
    running.process.terminate()
    lines = [line.strip() for line in running.said if "leaves" in line]
    assert running.process.wait() == 0
    assert sorted(lines[:2]) == ["worker 0 leaves", "worker 1 leaves"]
    assert lines[2:] == ["control leaves"]
    assert all(is_gone(child) for child in children)


def test_a_child_that_does_not_end_is_killed(running: Running) -> None:
    running.until("supervisor ready")
    os.kill(running.child("worker 1"), signal.SIGSTOP)
    running.process.terminate()
    running.until("WARNING supervisor killed")
    assert running.process.wait() == 0


def test_a_reload_is_passed_on_to_control(running: Running) -> None:
    running.until("supervisor ready")
    running.process.send_signal(signal.SIGHUP)
    running.until("control reloads")


def test_workers_that_never_serve_make_it_give_up_and_never_say_ready(three: Machines, tmp_path: Path) -> None:
    for one in _run(three, tmp_path, 1, "broken"):
        assert "worker 0" in one.until("supervisor giving up")
        assert one.process.wait() == 1
        assert os.read(one.ready, 64) == b""


def test_a_dashboard_that_never_serves_keeps_nobody_waiting(three: Machines, tmp_path: Path) -> None:
    for one in _run(three, tmp_path, 1, "blind"):
        assert os.read(one.ready, 64) == b"ready\n"
        for _ in range(4):
            one.until("supervisor ended: name='dashboard'")
        assert one.greeting() == "worker 0"
        assert not any("giving up" in line for line in one.log)


def test_every_look_at_the_rules_is_told_to_whoever_asks_how_things_stand(three: Machines, tmp_path: Path) -> None:
    for one in _run(three, tmp_path, 1, "mended"):
        told = [one.until(f"look number {number}: ").partition(": ")[2].strip() for number in range(2, 6)]
        look = read_look(str(tmp_path / "run"))
        assert look is not None
        assert 0 <= time.monotonic() - look.clock < 5
        assert (tmp_path / "run" / "catching.json").stat().st_uid == 0
    gone = ("The table is gone.",)
    assert told == [str(one) for one in (("", 0, ()), ("", 1, gone), ("found no nftables", 1, ()), ("", 1, gone))]


def test_no_number_of_workers_means_one_for_each_core() -> None:
    settings = Settings(agents=(), resources=(), credentials=(), networks=NETWORKS, policies=())
    assert worker_count(settings) == len(os.sched_getaffinity(0))
