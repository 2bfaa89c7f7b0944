"""The process that stays root: it opens the workers' sockets, runs workers and control as other users, keeps them alive.

It reads nothing from any peer. What it may do that they may not: bind a transparent socket and become another user. Should
it be killed, the kernel kills its children, and the rules in the kernel go on refusing.
"""

from __future__ import annotations

import ctypes
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.catching import Look, write_look
from appliance.errors import UnfitKernelError
from appliance.log import FORM_VARIABLE, Level, Log
from appliance.parties import Endpoint
from appliance.recording.places import lay_out
from appliance.settings import Settings
from kernel.origins import transparent_sockets

log = Log("supervisor")

# The argument list of a process, made from the descriptor on which it says (by any byte) that it serves.
ControlCommand = Callable[[int], Sequence[str]]
# The same for a worker, made from its number, its sockets' descriptors and that descriptor.
WorkerCommand = Callable[[int, tuple[int, ...], int], Sequence[str]]
# The dashboard's, made from the descriptors of its socket, of the one for metrics (None: there is none), and of that
# readiness.
DashboardCommand = Callable[[int, int | None, int], Sequence[str]]
# Puts back what is missing of the catching, and answers what that was, a sentence each. Raises UnfitKernelError.
Mend = Callable[[], Sequence[str]]

_CLONE_NEWNET = 0x40000000  # linux/sched.h
# linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38

# Whoever dies is started again at once; whoever dies again before having served this long waits, twice as long each time.
_STEADY_SECONDS: Final = 5.0
_DELAY_SECONDS_MIN: Final = 0.125
_DELAY_SECONDS_MAX: Final = 1.0
# Before all have served once, a process that ends this often has a wrong setting and not bad luck.
_FIRST_ENDS_MAX: Final = 3
# Between two looks at the kernel's rules. Without them executors are not served, but nothing of theirs passes either.
_MEND_SECONDS: Final = 1.0
# How long children may take to end their flows in good order.
_END_SECONDS: Final = 5.0
_DASHBOARD: Final = "dashboard"
# Browsers that may wait for the dashboard while it is busy.
_BACKLOG: Final = 128
# What children get to know of our environment. Their users are numbers alone, so there is no home.
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", FORM_VARIABLE)


@dataclass(slots=True, eq=False)
class _Child:
    """One process we keep alive, through all its lives. `due` is when it is to be started (monotonic seconds), None while it
    runs. Without one that is vital no traffic is served; the others come and go, and nothing waits for them."""

    name: str
    uid: int
    index: int | None
    process: subprocess.Popen[bytes] | None = None
    ended: int = -1
    readiness: int = -1
    is_serving: bool = False
    started: float = 0.0
    due: float | None = 0.0
    ends: int = 0
    delay: float = 0.0
    is_vital: bool = True


def supervise(
    settings: Settings,
    control: ControlCommand,
    worker: WorkerCommand,
    ready: int | None = None,
    mend: Mend | None = None,
    dashboard: DashboardCommand | None = None,
    dashboard_socket: int | None = None,
) -> int:
    """Run the appliance's processes until SIGTERM or SIGINT, and answer the exit code: 0 after an orderly end.

    As root, in the network namespace whose connections are caught. SIGHUP is passed on to control. When control and all
    workers serve for the first time, the line "ready" is written to the descriptor `ready`, which is then closed. `mend` is
    called every second. `dashboard_socket` is a listening socket that stands in for the one that the settings name.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    log.take_over()
    prepare_folders(settings)
    supervisor = _Supervisor(settings, control, worker, ready, mend, dashboard, dashboard_socket)
    try:
        return supervisor.run()
    finally:
        supervisor.close()


def prepare_folders(settings: Settings) -> None:
    """Make the folders of state and sockets with their owners. The group of each user has the user's own number."""
    control, worker = (settings.control_uid, settings.control_uid), (settings.worker_uid, settings.worker_uid)
    places = lay_out(Path(settings.state), worker, control)
    own = places.state / "control"
    run = Path(settings.run)
    run.mkdir(parents=True, exist_ok=True)
    own.mkdir(exist_ok=True)
    for folder, mode in ((own, 0o700), (run, 0o755)):
        os.chown(folder, *control)
        folder.chmod(mode)


def worker_count(settings: Settings) -> int:
    """How many workers there are: as many as set, or one for each core we may use."""
    return settings.workers or len(os.sched_getaffinity(0))


@dataclass(slots=True)
class _Supervisor:
    settings: Settings
    control: ControlCommand
    worker: WorkerCommand
    ready: int | None
    mend: Mend | None = None
    dashboard: DashboardCommand | None = None
    dashboard_socket: int | None = None
    mend_due: float = 0.0
    mend_fault: str = ""
    undone: int = 0
    undone_at: float | None = None
    undone_found: tuple[str, ...] = ()
    selector: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)
    signals: tuple[socket.socket, ...] = ()
    children: list[_Child] = field(default_factory=list)
    has_served: bool = False
    exit_code: int | None = None
    handlers: dict[signal.Signals, object] = field(default_factory=dict)

    def run(self) -> int:
        self._take_signals()
        self.children = [_Child("control", self.settings.control_uid, None)]
        self.children += [
            _Child(f"worker {index}", self.settings.worker_uid, index) for index in range(worker_count(self.settings))
        ]
        if self.dashboard is not None and self.settings.dashboard.listen is not None:
            self.children.append(_Child(_DASHBOARD, self.settings.dashboard_uid, None, is_vital=False))
        while self.exit_code is None:
            self._start_due()
            self._mend_due()
            self._wait(self._patience())
            self._see_readiness()
        self._end_all()
        return self.exit_code

    def close(self) -> None:
        """Kill what still runs and let go of everything."""
        for child in self.children:
            if child.process is not None:
                child.process.kill()
                child.process.wait()
                self._forget(child)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self.signals:
            signal.set_wakeup_fd(-1)
        for end in self.signals:
            end.close()
        self.selector.close()
        self._close_ready()

    # Waiting.

    def _take_signals(self) -> None:
        self.signals = socket.socketpair()
        for end in self.signals:
            end.setblocking(False)
        # Python writes each signal's number there; the handlers themselves have nothing to do.
        signal.set_wakeup_fd(self.signals[1].fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.handlers[number] = signal.signal(number, lambda *_: None)
        self.selector.register(self.signals[0], selectors.EVENT_READ, None)

    def _patience(self) -> float | None:
        due = [child.due for child in self.children if child.due is not None]
        if self.mend is not None:
            due.append(self.mend_due)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _wait(self, seconds: float | None) -> None:
        for key, _ in self.selector.select(seconds):
            child = key.data
            if child is None:
                self._heed(self.signals[0].recv(64))
            elif key.fd == child.ended:
                self._bury(child)
            elif key.fd == child.readiness:
                self._hear(child)

    def _heed(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGHUP:
                control = self.children[0].process
                if control is not None:
                    control.send_signal(signal.SIGHUP)
                    log("reload passed on", pid=control.pid)
            elif number in (signal.SIGTERM, signal.SIGINT):
                log("ending", signal=signal.Signals(number).name)
                self.exit_code = 0

    def _mend_due(self) -> None:
        if self.mend is None or time.monotonic() < self.mend_due:
            return
        self.mend_due = time.monotonic() + _MEND_SECONDS
        try:
            found = self.mend()
        except UnfitKernelError as error:
            # Nobody is caught and nothing passes; tried again until it works, said once.
            if str(error) != self.mend_fault:
                self.mend_fault = str(error)
                log("cannot catch executors", level=Level.ERROR, reason=error)
            self._tell_look(())
            return
        self.mend_fault = ""
        if found:
            log("catching was undone and is put back", level=Level.ERROR, found=" ".join(found))
            self.undone += 1
            self.undone_at, self.undone_found = time.monotonic(), tuple(found)
        self._tell_look(self.undone_found)

    def _tell_look(self, found: tuple[str, ...]) -> None:
        try:
            write_look(self.settings.run, Look(time.monotonic(), found, self.mend_fault, self.undone, self.undone_at))
        except OSError as error:
            # Whoever reads it sees that it grows old.
            log("cannot tell what was looked at", level=Level.WARNING, reason=error)

    # One child's life.

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.due is not None and child.due <= now and self.exit_code is None:
                try:
                    self._start(child)
                except OSError as error:
                    log("could not start", level=Level.ERROR, name=child.name, error=error)
                    self._put_off(child)

    def _start(self, child: _Child) -> None:
        reading, writing = os.pipe()
        sockets: tuple[socket.socket, ...] = ()
        try:
            if not child.is_vital:
                assert self.dashboard is not None
                pages, metrics = self._dashboard_socket(), self._metrics_socket()
                sockets = (pages,) if metrics is None else (pages, metrics)
                command = self.dashboard(pages.fileno(), None if metrics is None else metrics.fileno(), writing)
            elif child.index is None:
                command = self.control(writing)
            else:
                sockets = transparent_sockets(self.settings.networks.port)
                command = self.worker(child.index, tuple(one.fileno() for one in sockets), writing)
            child.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                # One stream for the whole appliance's log.
                stdout=sys.stderr.fileno(),
                stderr=sys.stderr.fileno(),
                pass_fds=(writing, *(one.fileno() for one in sockets)),
                cwd="/",
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,
                # Who is set apart becomes its user after that, which only root can do.
                user=child.uid if child.is_vital else None,
                group=child.uid if child.is_vital else None,
                extra_groups=() if child.is_vital else None,
                umask=0o027,
                # Only safe because this process has no threads.
                preexec_fn=_confine(os.getpid()) if child.is_vital else _set_apart(child.uid, os.getpid()),
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
            # From here on the sockets are the worker's alone: when it dies, they go, and so does its share of connections.
            for one in sockets:
                one.close()
        child.readiness = reading
        child.ended = os.pidfd_open(child.process.pid)
        child.started = time.monotonic()
        child.due = None
        self.selector.register(child.readiness, selectors.EVENT_READ, child)
        self.selector.register(child.ended, selectors.EVENT_READ, child)
        log("started", name=child.name, pid=child.process.pid)

    def _dashboard_socket(self) -> socket.socket:
        """Opened here, so that it may be a port that only root opens."""
        if self.dashboard_socket is not None:
            return socket.socket(fileno=os.dup(self.dashboard_socket))
        assert self.settings.dashboard.listen is not None
        return _listening(self.settings.dashboard.listen)

    def _metrics_socket(self) -> socket.socket | None:
        """Opened here, because the dashboard's process is in no network. Pages are served even where it can't be had."""
        place = self.settings.metrics.listen
        try:
            return None if place is None else _listening(place)
        except OSError as error:
            log("metrics not served", level=Level.WARNING, address=place, reason=error)
            return None

    def _hear(self, child: _Child) -> None:
        child.is_serving = bool(os.read(child.readiness, 1))
        self.selector.unregister(child.readiness)
        os.close(child.readiness)
        child.readiness = -1
        if child.is_serving:
            log("serving", name=child.name, seconds=round(time.monotonic() - child.started, 3))

    def _bury(self, child: _Child) -> None:
        assert child.process is not None
        code = child.process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        log(
            "ended",
            level=Level.INFO if self.exit_code is not None else Level.WARNING,
            name=child.name,
            pid=child.process.pid,
            how=how,
        )
        self._forget(child)
        self._put_off(child)

    def _put_off(self, child: _Child) -> None:
        now = time.monotonic()
        if now - child.started >= _STEADY_SECONDS:
            child.delay = 0.0
        child.due = now + child.delay
        child.delay = min(max(child.delay * 2, _DELAY_SECONDS_MIN), _DELAY_SECONDS_MAX)
        child.ends += 1
        if child.is_vital and not self.has_served and child.ends >= _FIRST_ENDS_MAX:
            log(
                "giving up",
                level=Level.ERROR,
                name=child.name,
                reason=f"it ended {child.ends} times before everything served",
            )
            self.exit_code = 1

    def _forget(self, child: _Child) -> None:
        for descriptor in (child.ended, child.readiness):
            if descriptor >= 0:
                self.selector.unregister(descriptor)
                os.close(descriptor)
        child.process, child.ended, child.readiness, child.is_serving = None, -1, -1, False

    def _see_readiness(self) -> None:
        if not self.has_served and all(child.is_serving for child in self.children if child.is_vital):
            self.has_served = True
            log("ready", workers=sum(child.index is not None for child in self.children))
            if self.ready is not None:
                os.write(self.ready, b"ready\n")
            self._close_ready()

    def _close_ready(self) -> None:
        if self.ready is not None:
            os.close(self.ready)
            self.ready = None

    # The end.

    def _end_all(self) -> None:
        """Workers first: while they end their flows they still have things to tell control."""
        self._end([child for child in self.children if child.index is not None or not child.is_vital])
        self._end([child for child in self.children if child.index is None and child.is_vital])
        log("ended all")

    def _end(self, children: list[_Child]) -> None:
        running = [child.process for child in children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _END_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log("killed", level=Level.WARNING, pid=process.pid, reason=f"it did not end within {_END_SECONDS:g} seconds")
                process.kill()
                process.wait()
        for child in children:
            self._forget(child)


def _listening(place: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
    return socket.create_server((place.address, place.port), family=family, backlog=_BACKLOG)


def _set_apart(uid: int, parent: int) -> Callable[[], None]:
    """`_confine` for the process that browsers talk to: it is in a network of its own with nothing in it, so that one who
    takes it over reaches no target and opens no port. The sockets it was given, and control's, work from there."""
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    confine = _confine(parent)

    def set_apart() -> None:
        if unshare(_CLONE_NEWNET):
            log("could not set apart", level=Level.ERROR, reason=os.strerror(ctypes.get_errno()))
            os._exit(1)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        confine()

    return set_apart


def _confine(parent: int) -> Callable[[], None]:
    """What a child does between fork and exec, when it is its new user already (a change of user would undo it)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def confine() -> None:
        # No set-user-ID program and no file capability gives anything back.
        if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
        # The supervisor died before the kernel knew that we go with it.
        if os.getppid() != parent:
            os._exit(1)

    return confine
