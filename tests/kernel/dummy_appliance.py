"""An appliance that only greets: a supervisor with real children, run as a program of its own by test_supervision.py.

`python -m tests.kernel.dummy_appliance supervise STATE READY WORKERS BROKEN`, the other two words are what it starts.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

from appliance.catching import read_look
from appliance.errors import UnfitKernelError
from appliance.settings import NetworkSettings, Settings
from appliance.supervision import supervise
from tests.kernel.conftest import NETWORKS

HOLDER = "tests.kernel.dummy_appliance"


def _supervise(state: str, ready: str, workers: str, broken: str) -> int:
    settings = Settings(
        agents=(),
        resources=(),
        credentials=(),
        networks=NetworkSettings(NETWORKS.interfaces),
        policies=(),
        state=f"{state}/state",
        run=f"{state}/run",
        workers=int(workers),
    )
    program = [sys.executable, "-P", "-m", HOLDER]

    def control(serving: int) -> list[str]:
        return [*program, "control", str(serving)]

    def worker(index: int, sockets: tuple[int, ...], serving: int) -> list[str]:
        if broken == "broken":
            return [sys.executable, "-c", "raise SystemExit(3)"]
        return [*program, "worker", str(index), ",".join(map(str, sockets)), str(serving)]

    def dashboard(_listening: int, _metrics: int | None, _serving: int) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit(4)"]

    return supervise(
        settings,
        control,
        worker,
        int(ready),
        _Mending(settings.run) if broken == "mended" else None,
        dashboard=dashboard if broken == "blind" else None,
    )


class _Mending:
    """Finds nothing, then something, then that it cannot be done, then nothing; says each time what is told of the look
    before."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._looks = 0

    def __call__(self) -> tuple[str, ...]:
        self._looks += 1
        told = read_look(self._run)
        print(f"look number {self._looks}: {told and (told.fault, told.undone, told.found)}", file=sys.stderr, flush=True)
        if self._looks == 3:
            raise UnfitKernelError("found no nftables")
        return ("The table is gone.",) if self._looks == 2 else ()


def _control(serving: str) -> int:
    signal.signal(signal.SIGHUP, lambda *_: print("control reloads", file=sys.stderr, flush=True))
    signal.signal(signal.SIGTERM, lambda *_: _leave("control"))
    os.write(int(serving), b"1")
    while True:
        signal.pause()


def _worker(index: str, sockets: str, serving: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: _leave(f"worker {index}"))
    for descriptor in sockets.split(","):
        listener = socket.socket(fileno=int(descriptor))
        listener.setblocking(True)
        listener.listen(16)
        threading.Thread(target=_greet, args=(listener, f"worker {index}".encode()), daemon=True).start()
    os.write(int(serving), b"1")
    while True:
        signal.pause()


def _greet(listener: socket.socket, words: bytes) -> None:
    while True:
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(words)


def _leave(name: str) -> None:
    print(f"{name} leaves", file=sys.stderr, flush=True)
    os._exit(0)


def main() -> int:
    """Be what the first argument says."""
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    return {"supervise": _supervise, "control": _control, "worker": _worker}[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
