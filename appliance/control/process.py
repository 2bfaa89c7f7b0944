"""The control process: what it is made of, what it does by the clock, and how it starts and ends."""

from __future__ import annotations

import asyncio
import datetime
import gc
import os
import secrets
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from appliance.approvals.desk import Case, Desk
from appliance.approvals.ledger import Ledger
from appliance.control.accounts import Accounts
from appliance.control.blast import BlastRadius
from appliance.control.catalogues import Catalogues
from appliance.control.changes import Changes, Sort
from appliance.control.explaining import explain_command
from appliance.control.health import Health, HealthSources
from appliance.control.log import Level, log
from appliance.control.metrics import Metrics, Sources
from appliance.control.pages import Pages
from appliance.control.people import People, reserved_names
from appliance.control.policies import PolicyFolder
from appliance.control.previewing import Previewing
from appliance.control.recorder import Recorder
from appliance.control.tallies import SAVE_SECONDS, Tallies
from appliance.control.workers import Workers
from appliance.credentials.vault import Vault
from appliance.errors import RecordingError, SettingErrors, SluicegateError
from appliance.ipc.channel import serve
from appliance.ipc.messages import REQUEST_BYTES_MAX
from appliance.recording.keys import make_or_load
from appliance.recording.places import Places, lay_out
from appliance.settings import Settings
from appliance.supervision import worker_count
from appliance.tls.authority import Leaves, open_authority

SWITCH_SECONDS = 0.0005
TICK_SECONDS = 0.2
HEALTH_SECONDS = 1.0
POLICY_SECONDS = 0.5
"""Files are read anew once they have stood still for one of these."""

_ID_CHARACTERS = "23456789abcdefghjkmnpqrstvwxyz"  # none that are mistaken for another when read aloud
_ID_LENGTH = 5


def run_control(settings: Settings, configuration: str, protocols: frozenset[str], ready: Callable[[], None]) -> int:
    """Run until SIGTERM or SIGINT; the exit code. `ready` is called once both sockets are served. SIGHUP reads policy and
    password files anew; the configuration itself is read at the start alone."""
    log.take_over()
    # Threads read SQLite for keeper and pages, and the loop must have its turn among them (5 ms are Python's own choice).
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        control = _Control(settings, configuration, protocols)
        uvloop.run(control.run(ready))
    except SluicegateError as error:
        log("cannot start", level=Level.ERROR, reason=error)
        return 1
    return 1 if control.has_failed else 0


def workers_socket(settings: Settings) -> str:
    """Where workers find control."""
    return f"{settings.run}/control-workers.sock"


def people_socket(settings: Settings) -> str:
    """Where people's commands find control."""
    return f"{settings.run}/control-people.sock"


class _Control:
    """Everything control is made of, joined."""

    def __init__(self, settings: Settings, configuration: str, protocols: frozenset[str]) -> None:
        self._settings = settings
        self._configuration = configuration
        self._protocols = protocols
        self._started = time.time()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self.has_failed = False
        state = Path(settings.state)
        places = Places(state)
        if not places.recording.is_dir():
            lay_out(state)
        own = state / "control"
        own.mkdir(mode=0o700, exist_ok=True)
        Path(settings.run).mkdir(mode=0o755, parents=True, exist_ok=True)
        self._policies = PolicyFolder(settings.policies, settings.hold_seconds)
        self._policy_since = self._started
        self._vault = Vault(settings, time.monotonic)
        authority = open_authority(own / "authority", lambda: datetime.datetime.now(datetime.UTC))
        leaves = Leaves(authority)
        keys = make_or_load(places)
        # In milliseconds, so that serials of two lives never meet.
        self._changes = Changes(int(self._started * 1000))
        self._recorder = Recorder(
            places, keys, lambda process, reason: self._workers.distrust(process, reason), self._changes.note_flows
        )
        self._ledger = Ledger(own / "ledger.sqlite", keys.seal_key)
        self._workers = Workers(
            settings,
            self._vault,
            leaves,
            keys.seal_key,
            str(places.journals),
            lambda: self._policies.in_force,
            self._start,
            self._changes.note_flows,
        )
        self._catalogues = Catalogues(
            settings, self._vault, self._workers.tell_stale, self._workers.has_flows, time.monotonic
        )
        self._accounts = Accounts(
            own / "accounts.sqlite", own / "first-password", self._recorder.note, reserved_names(settings)
        )
        self._pages = Pages(places)
        self._previewing = Previewing(lambda: self._policies.in_force.policy, self._catalogues)
        self._people = People(
            settings,
            self._workers,
            self._recorder,
            self._ledger,
            self._accounts,
            self._changes,
            self._pages,
            self._previewing,
            lambda: self._policies.in_force,
            self._status,
            self._reload_policy,
            self._explain,
            lambda: leaves.leaf_of_dashboard(settings.dashboard),
            self._start,
        )
        self._desk = Desk(self._ledger, self._workers.settle, _draw_id, self._moved, time.time())
        self._blast = BlastRadius(
            settings,
            self._vault,
            self._catalogues,
            lambda approval, figures: self._desk.inform(approval, figures, time.time()),
            time.monotonic,
        )
        self._tallies = Tallies(own / "tallies.sqlite")
        self._workers.join(self._desk, self._catalogues, self._tallies)
        self._metrics = Metrics(
            Sources(
                self._tallies,
                self._workers,
                self._recorder,
                self._catalogues,
                self._policies,
                places.journals,
                settings.dashboard_uid,
                lambda: len(self._desk.waiting()),
                time.monotonic,
            )
        )
        self._health = Health(
            HealthSources(
                run=settings.run,
                state=settings.state,
                workers_wanted=worker_count(settings),
                workers=self._workers,
                recorder=self._recorder,
                policies=self._policies,
                catalogues=self._catalogues,
                ledger=self._ledger,
                accounts=self._accounts,
                waiting=lambda: len(self._desk.waiting()),
                clock=time.monotonic,
                wall=time.time,
            )
        )
        self._people.join(self._desk, self._metrics, self._tallies, self._health, self._catalogues)

    async def run(self, ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._heed_hangup)
        await self._recorder.open()
        self._open_accounts()
        # Anybody may connect to either; who stays is decided by the peer's user, which the kernel vouches for.
        servers = [
            await serve(workers_socket(self._settings), self._workers.accept, 0o666),
            await serve(people_socket(self._settings), self._people.accept, 0o666, frame_bytes_max=REQUEST_BYTES_MAX),
        ]
        for duty in (
            self._recorder.keep_draining(),
            self._catalogues.watch(),
            self._watch_policy(),
            self._watch_desk(),
            self._changes.keep_beat(),
            self._recorder.keep_index(),
            self._keep_tallies(),
            self._watch_health(),
        ):
            self._start(duty)
        log("serving", policy=self._policies.in_force.policy.version, rules=len(self._policies.in_force.policy.rules))
        # What is there now stays. Looking through it for garbage takes some 100 ms, in which nobody is answered.
        gc.collect()
        gc.freeze()
        ready()
        await self._stopping.wait()
        log("ending")
        for server in servers:
            server.close()
        self._workers.stop()
        self._people.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._blast.close()
        await self._catalogues.close()
        self._accounts.close()
        self._pages.close()
        self._previewing.close()
        await self._recorder.close()
        self._ledger.close()
        self._save_tallies()
        self._tallies.close()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            # Our own mistake. Nothing can be trusted to go on rightly, and the supervisor starts us anew.
            asyncio.get_running_loop().call_exception_handler({"message": "a duty of control ended", "exception": fault})
            self.has_failed = True
            self._stopping.set()

    def _open_accounts(self) -> None:
        try:
            self._accounts.open(time.time())
        except RecordingError as error:
            # Nobody can sign in until somebody mends the file; traffic goes on, and so does the command line.
            log("accounts unfit, nobody can sign in", level=Level.ERROR, reason=error)

    def _moved(self, case: Case) -> None:
        self._people.moved(case)
        self._metrics.moved(case)
        self._blast.heed(case)

    # By the clock.

    async def _watch_desk(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._desk.tick(time.time())
            except RecordingError as error:
                log("ledger fails", level=Level.ERROR, reason=error)

    async def _watch_health(self) -> None:
        while True:
            if self._health.look():
                self._changes.move(Sort.HEALTH)
            await asyncio.sleep(HEALTH_SECONDS)

    async def _watch_policy(self) -> None:
        while True:
            await asyncio.sleep(POLICY_SECONDS)
            if self._policies.has_settled_anew():
                self._reload_policy()

    async def _keep_tallies(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            self._save_tallies()

    def _save_tallies(self) -> None:
        try:
            self._tallies.forget_past({worker.peer for worker in self._workers.present()})
            self._tallies.save()
        except sqlite3.Error as error:
            log("hits of rules can't be kept", level=Level.ERROR, reason=error)

    # On demand.

    def _heed_hangup(self) -> None:
        self._reload_policy()
        try:
            self._vault.load(self._settings)
        except SettingErrors as error:
            log("credentials unfit, the old ones stay", level=Level.ERROR, reason=error)

    def _reload_policy(self) -> dict[str, Any]:
        is_new = self._policies.reload()
        self._changes.move(Sort.POLICY)
        if is_new:
            self._policy_since = time.time()
            self._workers.tell_policy(self._policies.in_force)
            log("policy in force", policy=self._policies.in_force.policy.version)
        elif self._policies.fault:
            log("policy unfit, the old one stays in force", level=Level.ERROR, reason=self._policies.fault)
        return self._policy_state() | {"changed": is_new}

    def _policy_state(self) -> dict[str, Any]:
        policy = self._policies.in_force
        return {
            "version": policy.policy.version,
            "rules": len(policy.policy.rules),
            "files": [name for name, _ in policy.files],
            "fault": self._policies.fault,
            "since": self._policy_since,
        }

    def _status(self) -> dict[str, Any]:
        return {
            "process": os.getpid(),
            "started": self._started,
            "configuration": self._configuration,
            "workers": [
                {"index": worker.index, "process": worker.process, "flows": len(worker.flows)}
                for worker in self._workers.present()
            ],
            "policy": self._policy_state(),
            "approvals": len(self._desk.waiting()),
            "catalogues": self._catalogues.states(),
            "recording": {
                "records": self._recorder.records,
                "fault": self._recorder.fault,
                "alarms": list(self._recorder.alarms),
            },
        }

    async def _explain(self, agent: str, phase: str, resource: str, database: str, command: str) -> dict[str, Any]:
        known = await self._catalogues.current(resource, database)
        explanation = explain_command(
            self._policies.in_force.policy, self._settings, agent, phase, resource, database, command, known.catalogue
        )
        return {"text": explanation.text(), "explanation": explanation.data()}


def _draw_id() -> str:
    return "a-" + "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
