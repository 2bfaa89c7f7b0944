"""Runs ways round, in the schema of tests/bypasses, against a real server through the lab's appliance, and scores them.

Harm is looked for at the server and leaks in the bytes the client received; what the product says of itself counts only for
telling a refusal from an answer.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import queue
import re
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pyroute2 import netns

from lab.approver import Approver
from lab.database import OWNER, PORT
from lab.laboratory import Lab
from lab.machines import EXECUTOR, TARGET, LabError, Place, namespace
from lab.raw_postgres import RawPostgres
from lab.redis_bypasses import attack
from lab.redis_server import PORT as REDIS_PORT
from lab.redis_server import RedisServer, cache_resource

FIXTURES: Final = Path(__file__).resolve().parent.parent / "tests" / "bypasses" / "fixtures"
POLICIES: Final = Path(__file__).resolve().parent.parent / "policies" / "example"
# The words every refusal of ours carries (protocols/postgres): a server's own errors never do.
_REFUSED: Final = re.compile(r"refused by|the gateway|refused:|sluicegate", re.IGNORECASE)
_NUMBERS: Final = itertools.count(1)
# With any of these a case needs a database of its own.
_OWN_DATABASE: Final = ("setup", "harm", "victim_db", "cleanup", "psql", "psql_c", "must_contain", "no_db")
# Two keep two cores busy; more only wait for one another.
_RUNNERS: Final = 2
_RUN_ENGINES: Final = frozenset({"postgres", "redis"})


@dataclass(slots=True)
class Run:
    """What one run of a case showed."""

    outcome: str
    has_harm: bool = False
    leaks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Score:
    """A case with what was seen. `exact`: as expected; `correct`: accepted, without harm or leak."""

    id: str
    trick: str
    expect: str
    outcome: str
    correct: bool
    exact: bool
    benign: bool
    soundness: str
    notes: list[str]


class Runner:
    """Runs cases one after the other in one lab, each in a database of its own."""

    def __init__(self, lab: Lab, fixture: str, approver: Approver, redis: RedisServer | None) -> None:
        self._lab = lab
        self._redis = redis
        self._approver = approver
        self._fixture = fixture
        self._scratch = lab.folder / "target" / "log" / "scratch"
        self._victim = "victim"
        # A database for cases that look for no harm and are expected to be refused; made anew once one was not.
        self._number = next(_NUMBERS)
        self._standing = f"standing_{self._number}"
        self._is_standing = False

    def score(self, case: dict[str, Any]) -> Score:
        """Run a case, twice where a person is to approve, and judge what was seen."""
        expect = case["expect"]
        first = self._run(case, approve=False)
        outcome, notes = first.outcome, list(first.notes)
        harmless = not first.has_harm and not first.leaks
        if outcome == "approve" and "approve" in case["accept"] and case.get("harm"):
            second = self._run(case, approve=True)
            notes += [f"approved: {note}" for note in second.notes]
            if expect == "approve" and not second.has_harm:
                notes.append("approved, but the statement did not take effect")
                outcome = "approved without effect"
            if second.leaks:
                harmless = False
        if first.has_harm:
            notes.append("harm at the server")
        notes += [f"leak: {leak}" for leak in first.leaks]
        accepted = outcome in case["accept"]
        if expect == "known_undetectable":
            accepted, harmless = True, True
        return Score(
            id=case["id"],
            trick=case["trick"],
            expect=expect,
            outcome=outcome,
            correct=accepted and harmless,
            exact=outcome == expect and harmless,
            benign=bool(case.get("benign")),
            soundness=case.get("soundness", ""),
            notes=notes,
        )

    def _run(self, case: dict[str, Any], *, approve: bool) -> Run:
        return self._run_redis(case) if case["engine"] == "redis" else self._run_postgres(case, approve=approve)

    def _run_redis(self, case: dict[str, Any]) -> Run:
        assert self._redis is not None, "the lab has a Redis where there are cases for one"
        # Redis has no databases with names, so its holds come from none.
        with self._approver.answering(None, approve=False) as asked:
            seen = attack(self._redis, lambda: self._connect(REDIS_PORT), case)
        if asked:
            seen.outcome = "approve"
        return Run(seen.outcome, seen.has_harm, seen.leaks, seen.notes)

    def _name(self, case: str) -> str:
        """A database's name for a case: two runners may have cases of one id."""
        return f"case_{self._number}_" + re.sub(r"[^a-z0-9]+", "_", case.lower())[:40]

    def _run_postgres(self, case: dict[str, Any], *, approve: bool) -> Run:
        stands = case["expect"] == "deny" and len(case.get("statements", ())) == 1 and not any(map(case.get, _OWN_DATABASE))
        name = self._standing if stands else self._name(case["id"])
        victim = f"{self._victim}_{name}"
        if not (stands and self._is_standing):
            self._lab.fresh_database(name, self._fixture)
        self._is_standing = False if stands else self._is_standing
        if case.get("victim_db"):
            self._lab.database.drop(f"{victim}_gone")
            self._lab.fresh_database(victim, "select 1")
        substitute = self._substitution(case, name, victim)
        try:
            for statement in case.get("setup", []):
                self._lab.admin(substitute(statement), name)
            with self._approver.answering(name, approve=approve) as asked:
                run = self._attack(case, name, substitute)
            if asked:
                run.outcome = "approve" if not (run.outcome == "deny" and approve) else "deny"
                run.notes += [f"asked: {text[:80]}" for text in asked]
            if case.get("harm"):
                rows = self._lab.admin(substitute(case["harm"]), name if "datname" not in case["harm"] else "postgres")
                run.has_harm = bool(rows and rows[0][0])
            # One statement that was refused has left nothing behind.
            self._is_standing = self._is_standing or (stands and run.outcome == "deny" and not run.leaks)
            return run
        finally:
            for statement in case.get("cleanup", []):
                with contextlib.suppress(Exception):
                    self._lab.admin(substitute(statement), name)
            if not stands:
                for database in (name, victim, f"{victim}_gone") if case.get("victim_db") else (name,):
                    self._lab.database.drop(database)

    def _attack(self, case: dict[str, Any], name: str, substitute: Any) -> Run:
        if "psql" in case or "psql_c" in case:
            return self._by_psql(case, name, substitute)
        run = Run("allow")

        def oid_of(query: str) -> int:
            return int(self._lab.admin(query, name)[0][0])

        client = RawPostgres(self._connect, substitute, oid_of)
        try:
            startup = {"user": OWNER, "database": name}
            if case.get("no_db"):
                del startup["database"]
            startup.update({key: substitute(value) for key, value in case.get("startup", {}).items()})
            client.start(startup, case.get("pre"))
            started_refused = client.is_closed or bool(client.errors)
            if not started_refused:
                if "protocol" in case:
                    for step in case["protocol"]:
                        client.do(step)
                    client.finish()
                else:
                    for statement in case.get("statements", []):
                        client.query(substitute(statement))
                        if client.is_closed:
                            break
            self._judge_client(case, client, run)
            if run.outcome == "deny" and not client.is_closed:
                self._expect_alive(client, run)
        finally:
            client.close()
        return run

    def _judge_client(self, case: dict[str, Any], client: RawPostgres, run: Run) -> None:
        errors = [error.get("M", "") for error in client.errors]
        fatal = any(error.get("S") == "FATAL" for error in client.errors)
        if client.has_hung:
            run.outcome = "hang"
            run.notes.append("no answer in time")
        elif fatal or client.is_closed or any(_is_refusal(error) for error in client.errors):
            run.outcome = "deny"
        elif case["expect"] in ("mask", "deny") and "mask" in case["accept"] and not client.errors:
            run.outcome = "mask"
        elif errors and not case.get("err_ok"):
            # The server itself refused: nothing was done, and nothing was done by us.
            run.outcome = "deny" if not case.get("benign") else "server error"
        run.notes += [f"error: {error}" for error in errors]
        fields = [value for row in client.rows for value in row if value is not None]
        backwards = [value for row in reversed(client.rows) for value in row if value is not None]
        run.leaks = _leaks(case, client.received, b"".join(fields), b"".join(backwards))
        if case.get("harm_client") == "bytes>1000000" and len(client.received) > 1_000_000:
            run.leaks.append("more than a million bytes")
        missing = [want for want in case.get("must_contain") or [] if want.encode() not in client.received]
        if missing:
            run.outcome = "incomplete"
            run.notes.append(f"missing: {missing}")

    def _expect_alive(self, client: RawPostgres, run: Run) -> None:
        client.rows.clear()
        client.query("select 1")
        if client.is_closed or client.has_hung:
            run.outcome = "broken after refusal"
        elif client.status == "I" and client.rows != [[b"1"]]:
            run.notes.append(f"after the refusal select 1 answered {client.rows} {client.errors[-1:]}")
            run.outcome = "broken after refusal"

    def _by_psql(self, case: dict[str, Any], name: str, substitute: Any) -> Run:
        if "psql" in case:
            done = self._lab.psql(substitute(case["psql"]), as_="executor", database=name)
        else:
            done = self._lab.psql("", "-c", substitute(case["psql_c"]), as_="executor", database=name)
        said = (done.stdout + done.stderr).encode()
        run = Run("allow")
        if _REFUSED.search(done.stderr) or "connection to server" in done.stderr:
            run.outcome = "deny"
        elif "ERROR" in done.stderr and not case.get("err_ok"):
            run.outcome = "server error" if case.get("benign") else "deny"
        elif case["expect"] == "mask":
            run.outcome = "mask"
        run.notes += [line for line in done.stderr.splitlines() if "ERROR" in line or "FATAL" in line][:5]
        run.leaks = _leaks(case, said, said, said)
        missing = [want for want in case.get("must_contain") or [] if want.encode() not in said]
        if missing:
            run.outcome = "incomplete"
            run.notes.append(f"missing: {missing}")
        return run

    def _connect(self, port: int = PORT) -> socket.socket:
        """A connection out of the executor's machine to the target's address, as any client there would make it."""
        netns.pushns(namespace(self._lab.name, Place.EXECUTOR))
        try:
            return socket.create_connection((TARGET.ipv4, port), 20, (EXECUTOR.ipv4, 0))
        finally:
            netns.popns()

    def _substitution(self, case: dict[str, Any], name: str, victim: str) -> Any:
        words = {
            "{{DB}}": name,
            "{{HOST}}": TARGET.ipv4,
            "{{PORT}}": str(PORT),
            "{{CONNINFO}}": f"host={TARGET.ipv4} port={PORT} dbname={name} user={OWNER}",
            "{{VICTIM}}": victim,
            "{{VICTIM_U}}": "".join(f"\\{ord(letter):04x}" for letter in victim),
            "{{N}}": case["id"],
            "{{SCRATCH}}": str(self._scratch),
        }

        def substitute(text: str) -> str:
            for word, value in words.items():
                text = text.replace(word, value)
            text = re.sub(r"REPEAT_A:(\d+)", lambda found: "A" * int(found[1]), text)
            if "PAD16M:" in text:
                text = text.replace("PAD16M:", "/*" + "x" * (16 << 20) + "*/")
            return text

        return substitute


def _is_refusal(error: dict[str, str]) -> bool:
    # Where we refuse because a text cannot run at all, we speak with the server's own codes.
    return bool(_REFUSED.search(" ".join(error.values())))


def _leaks(case: dict[str, Any], *haystacks: bytes) -> list[str]:
    found = []
    for leak in case.get("leak", []):
        needle = bytes.fromhex(leak[4:]) if leak.startswith("hex:") else leak.encode()
        if any(needle in haystack for haystack in haystacks):
            found.append(leak)
    return found


def _cases(files: list[str]) -> Iterator[dict[str, Any]]:
    for file in files:
        for number, line in enumerate(Path(file).read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                case = json.loads(line)
                _ = case["id"], case["expect"], case["accept"], case["engine"]
            except (json.JSONDecodeError, KeyError) as error:
                raise LabError(
                    f"{file}:{number}: found a line that is no case ({error}); see tests/bypasses/README.md"
                ) from error
            case.setdefault("trick", "")
            yield case


def _fixture(files: list[str]) -> str:
    beside = Path(files[0]).resolve().parent / "fixtures" / "postgres.sql"
    return (beside if beside.exists() else FIXTURES / "postgres.sql").read_text()


def score_all(name: str, cases: Sequence[dict[str, Any]], fixture: str, policies: Path) -> Iterator[Score]:
    """Run cases in a lab of that name, several at a time, and give each score as it comes. A case that cannot be run is
    wrong, and its note says why; the others go on."""
    able: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    scores: queue.SimpleQueue[Score] = queue.SimpleQueue()
    single = [case for case in cases if case["engine"] == "redis"]
    for case in cases:
        if case["engine"] != "redis":
            able.put(case)
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(name))
        lab.configure(policies, workers=_RUNNERS, resources={**lab.shop_resource(), **cache_resource()})
        redis = None
        if single:
            redis = RedisServer(lab)
            redis.start()
        lab.start_appliance()
        # The first copy makes the template that all others are made of, which two must not do at once.
        lab.fresh_database("first", fixture)
        lab.fresh_database("first", "select 1")
        approver = stack.enter_context(Approver(lab))

        def work(mine: list[dict[str, Any]]) -> None:
            runner = Runner(lab, fixture, approver, redis)
            # One server and one desk for all Redis cases: they go one after the other.
            for case in mine:
                scores.put(_score(runner, case))
            while True:
                try:
                    case = able.get_nowait()
                except queue.Empty:
                    return
                scores.put(_score(runner, case))

        threads = [
            threading.Thread(target=work, args=(single if first else [],)) for first in (True, *[False] * (_RUNNERS - 1))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in cases:
                yield scores.get()
        finally:
            while not able.empty():
                with contextlib.suppress(queue.Empty):
                    able.get_nowait()
            for thread in threads:
                thread.join()


def _score(runner: Runner, case: dict[str, Any]) -> Score:
    try:
        return runner.score(case)
    except Exception as error:  # noqa: BLE001  the border of one case: the others go on
        said = f"{type(error).__name__}: {error}"
        soundness, benign = case.get("soundness", ""), bool(case.get("benign"))
        return Score(case["id"], case["trick"], case["expect"], "not run", False, False, benign, soundness, [said])


def main() -> int:
    """The command line; 0 where every case that was run is correct."""
    parser = argparse.ArgumentParser(
        prog="./run bypasses", description="Score ways round against the appliance in a lab of its own."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="cases, one JSON object a line")
    parser.add_argument("--json", metavar="OUT", help="write every case's result there")
    parser.add_argument("--only", metavar="ID", action="append", help="run this case alone (may be given again)")
    parser.add_argument("--policies", default=str(POLICIES), help="the policy to run under")
    arguments = parser.parse_args()
    cases = [case for case in _cases(arguments.files) if not arguments.only or case["id"] in arguments.only]
    able = [case for case in cases if case["engine"] in _RUN_ENGINES]
    scores: list[Score] = []
    lab = os.environ.get("SLUICEGATE_LAB", "bypasses")
    for score in score_all(lab, able, _fixture(arguments.files), Path(arguments.policies)):
        scores.append(score)
        word = "ok   " if score.correct else "WRONG"
        print(
            f"[{len(scores)}/{len(able)}] {word} {score.id}: expected {score.expect}, saw {score.outcome}  {score.trick}",
            flush=True,
        )
        if not score.correct:
            for note in score.notes[:6]:
                print(f"         {note}", flush=True)
    order = {case["id"]: place for place, case in enumerate(able)}
    scores.sort(key=lambda score: order[score.id])
    if arguments.json:
        Path(arguments.json).write_text(json.dumps([asdict(score) for score in scores], indent=1) + "\n")
    left = len(cases) - len(able)
    if left:
        print(f"not run: {left} cases of protocols that this version does not speak")
    counted = [score for score in scores if score.expect != "known_undetectable"]
    caught = sum(score.outcome in ("deny", "mask", "approve") for score in scores if score.expect == "known_undetectable")
    if len(counted) < len(scores):
        print(f"of {len(scores) - len(counted)} known to be undetectable, {caught} caught; they count neither way")
    benign = [score for score in counted if score.benign]
    masks = [score for score in counted if score.expect == "mask"]
    refused = sum(not score.correct for score in benign)
    print(
        f"correct {sum(s.correct for s in counted)} of {len(counted)}; benign refused {refused} of {len(benign)}; "
        f"mask cases masked {sum(s.outcome == 'mask' and s.correct for s in masks)} of {len(masks)}"
    )
    return 0 if all(score.correct for score in counted) else 1


if __name__ == "__main__":
    sys.exit(main())
