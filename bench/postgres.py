"""What PostgreSQL's clients pay for each way to the target: lanes, modes and rounds, and what is run in each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Final

import click

from bench import pgbench, stream, usage
from bench.figures import DIRECT, Metric, Samples, as_json, as_table, in_turn, noise
from bench.peers import IDLE_CLIENTS, IDLE_SOURCES, Lane, Peers
from lab.database import OWNER
from lab.laboratory import REPOSITORY, Lab
from lab.machines import LabError, Place

LANES: Final = (DIRECT, "pgbouncer", "haproxy", "sluicegate")
CLIENTS: Final = (1, 8, 64)
ROWS: Final = 100_000
GIGABYTE: Final = "gigabyte"
IDLE: Final = "idle"
_DATABASE: Final = "bench"
_MODE_TLS: Final = "-tls"
# What a run may take beyond its own seconds: connecting 64 clients on a busy machine, and one last large result.
_SLACK_SECONDS: Final = 60
_TIMES_MIN: Final = 3
_LARGE_TIMES: Final = 1
_SETTLE_SECONDS: Final = 2  # for what is freed, or told to others, a moment after a login
# The server is the same for all lanes and must not be what limits them: all that is read is in its memory, and it does not
# write each statement to its log, as the lab's otherwise does.
_SERVER: Final = {"log_statement": "none", "shared_buffers": "512MB"}

# As the shop's customers are, so that the example policy masks them; about 220 bytes a row of what is selected below.
_CUSTOMERS: Final = f"""
create extension pg_prewarm;
create table customers (id int primary key, name text not null, email text not null, ssn text not null,
    card_number text not null, phone text, city text, notes text);
insert into customers select n, 'Ada Quill ' || n, 'ada.quill' || n || '@shop.example',
    100 + n % 800 || '-' || 10 + n % 89 || '-' || 1000 + n % 9000,
    '41111111' || lpad(n::text, 8, '0'), '+1-202-555-' || lpad((n % 10000)::text, 4, '0'), 'Turku',
    rpad('called about an order and asked for it to be sent again to the other address ', 150, 'so it was ')
from generate_series(1, {ROWS}) n;
"""
_WARM: Final = """
analyze; select pg_prewarm('customers'), pg_prewarm('pgbench_accounts'), pg_prewarm('pgbench_accounts_pkey')
"""
_LARGE_ROWS: Final = 1_000_000  # of 1,002 bytes
_QUERIES: Final[Mapping[str, str]] = {
    "unmasked": "select id, name, phone, city, notes from customers",
    "masked": "select id, name, email, card_number, notes from customers",
    # A row on the wire has seven bytes of its own, four for each of two columns, and here five digits.
    GIGABYTE: f"select {_LARGE_ROWS} + n, repeat('so it was ', 98) from generate_series(1, {_LARGE_ROWS}) n",
}
_ROWS_OF: Final[Mapping[str, int]] = {"unmasked": ROWS, "masked": ROWS, GIGABYTE: _LARGE_ROWS}


@dataclass(frozen=True, slots=True)
class Case:
    """One thing every lane does in every round. `sort` is a protocol of pgbench, a result to be streamed, or IDLE."""

    sort: str
    clients: int
    is_encrypted: bool

    @property
    def mode(self) -> str:
        """The case's name in figures; those with TLS end so."""
        return self.sort + (_MODE_TLS if self.is_encrypted else "")

    @property
    def unit(self) -> str | None:
        """What its figures are in; None for each metric's own unit. What one idle connection costs is no matter of MiB."""
        return "KiB" if self.sort == IDLE else None


def cases(numbers: tuple[int, ...]) -> Iterator[Case]:
    """All cases of a round with these numbers of clients, in their order."""
    for is_encrypted in (False, True):
        for protocol in pgbench.PROTOCOLS:
            for clients in numbers:
                yield Case(protocol, clients, is_encrypted)
        for result in ("unmasked", "masked"):
            yield Case(result, 1, is_encrypted)
    yield Case(GIGABYTE, 1, False)
    yield Case(IDLE, IDLE_CLIENTS, False)


class Bench:
    """A lab with lanes, and the runs in it."""

    def __init__(self, lab: Lab, password: str) -> None:
        self._lab = lab
        self._password = password

    def fill(self, direct: Lane) -> None:
        """Make the database, its tables by the direct way."""
        self._lab.database.start_again(_SERVER)
        self._lab.fresh_database(_DATABASE, _CUSTOMERS)
        self._run(direct, False, pgbench.fill_command(), 120)
        self._lab.admin(_WARM, _DATABASE)

    def measure(self, lane: Lane, case: Case, seconds: int) -> dict[Metric, float]:
        """One run of a case, in its unit. LabError if the lane did not do all that it was asked."""
        if case.sort == IDLE:
            return self._idle(lane, case)
        workers = lane.workers(case.is_encrypted)
        usage.forget_peak(workers)
        if case.sort in _QUERIES:
            found = {Metric.STREAM: median(self._stream(lane, case, seconds))}
        else:
            found = self._query(lane, case, seconds)
        if workers:
            if lane.workers(case.is_encrypted) != workers:
                raise LabError(f"{lane.name} {case.mode} {case.clients}: a worker ended meanwhile")
            found[Metric.RSS] = usage.peak_resident(workers) / 2**20
        return found

    def _idle(self, lane: Lane, case: Case) -> dict[Metric, float]:
        """What the lane's workers hold more for each connection that stands and does nothing."""
        workers = lane.workers(case.is_encrypted)
        if not workers:
            return {}
        words = [sys.executable, "-P", "-m", "bench.idle"]
        # An agent is told by its address; the others do not look at it, and it is not theirs to route.
        sources = () if lane.needs_password else IDLE_SOURCES
        # Once with a few, so that what the first connections load is not counted as theirs.
        self._stand(lane, [*words, "100", *sources], workers)
        before = usage.resident(workers)
        after = self._stand(lane, [*words, str(case.clients), *sources], workers)
        return {Metric.RSS: (after - before) / case.clients / 1024}

    def _stand(self, lane: Lane, words: list[str], workers: list[int]) -> int:
        """Let connections stand; answer what the workers have resident meanwhile."""
        process = self._lab.start_in(Place.EXECUTOR, words, environment=self._environment(lane, lane.idle, False))
        assert process.stdout is not None
        wanted, standing = words[4], ""
        while standing != wanted:
            standing = process.stdout.readline().strip()
            if not standing:
                raise LabError(f"{lane.name} {IDLE}: {process.communicate()[1].strip()[-2000:]}")
            _say(f"{lane.name} {IDLE}: {standing} of {wanted} connections stand")
        time.sleep(_SETTLE_SECONDS)
        resident = usage.resident(workers)
        said, errors = process.communicate(timeout=_SLACK_SECONDS)
        if process.returncode or "all answer" not in said:
            raise LabError(f"{lane.name} {IDLE}: {errors.strip()[-2000:]}")
        if lane.workers(False) != workers:
            raise LabError(f"{lane.name} {IDLE}: a worker ended meanwhile")
        return resident

    def _query(self, lane: Lane, case: Case, seconds: int) -> dict[Metric, float]:
        processes = lane.processes()
        # pgbench's time and the processes' hold connecting, too. What that takes is seen first and then taken off.
        before = usage.processor_seconds(processes)
        once = self._pgbench(lane, case, pgbench.read_once_command(case.sort, case.clients), 0)
        between = usage.processor_seconds(processes)
        whole = seconds + ceil(once.connecting)
        report = self._pgbench(lane, case, pgbench.read_command(case.sort, case.clients, whole), whole)
        used = usage.processor_seconds(processes) - between - (between - before)
        found = {Metric.LATENCY: report.latency, Metric.THROUGHPUT: report.throughput}
        if processes:
            found[Metric.CPU_PER_TRANSACTION] = max(used, 0.0) / (report.transactions - once.transactions) * 1e6
        return found

    def _pgbench(self, lane: Lane, case: Case, words: list[str], seconds: int) -> pgbench.Report:
        try:
            return pgbench.read_report(self._run(lane, case.is_encrypted, words, seconds))
        except ValueError as error:
            raise LabError(f"{lane.name} {case.mode} with {case.clients}: {error}") from error

    def _stream(self, lane: Lane, case: Case, seconds: int) -> list[float]:
        rows, times = _ROWS_OF[case.sort], _LARGE_TIMES if case.sort == GIGABYTE else _TIMES_MIN
        words = [sys.executable, "-P", "-m", "bench.stream", _QUERIES[case.sort], str(seconds), str(times)]
        readings = stream.read_readings(self._run(lane, case.is_encrypted, words, seconds))
        if any(reading.rows != rows for reading in readings):
            raise LabError(f"{lane.name} {case.mode}: not {rows} rows but {[reading.rows for reading in readings]}")
        return [reading.size / 1e6 / reading.seconds for reading in readings]

    def _run(self, lane: Lane, is_encrypted: bool, words: list[str], seconds: int) -> str:
        environment = self._environment(lane, lane.endpoint(is_encrypted), is_encrypted)
        limit = seconds + _SLACK_SECONDS
        try:
            done = self._lab.run_in(Place.EXECUTOR, words, "executor", environment=environment, seconds=limit)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{lane.name}: {Path(words[0]).name} did not end within {limit} s") from error
        if done.returncode:
            raise LabError(f"{lane.name}: {Path(words[0]).name} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def _environment(self, lane: Lane, endpoint: tuple[str, int], is_encrypted: bool) -> dict[str, str]:
        host, port = endpoint
        environment = {
            "PGHOST": host,
            "PGPORT": str(port),
            "PGUSER": OWNER,
            "PGDATABASE": _DATABASE,
            "PGSSLMODE": "require" if is_encrypted else "disable",
            "PGGSSENCMODE": "disable",
            "PYTHONPATH": str(REPOSITORY),
        }
        if lane.needs_password:
            environment["PGPASSWORD"] = self._password
        return environment


def run(
    lab: Lab, lanes: tuple[str, ...], everything: list[Case], rounds: int, seconds: int, policies: Path
) -> tuple[Samples, list[str]]:
    """All rounds of all cases in a lab that is up. Answers what was measured, and what went wrong with which lane."""
    password = (lab.folder / "secrets" / OWNER).read_text().strip()
    peers, bench = Peers(lab, password, policies), Bench(lab, password)
    peers.make_links()
    bench.fill(peers.start(DIRECT))
    if any(case.sort == IDLE for case in everything):
        peers.start_pool()
    open_lanes = {name: peers.start(name) for name in lanes}
    samples, faults = Samples("postgres", lanes), []
    # A turn that is not counted: caches fill, and what a lane cannot do at all shows before the long part.
    for lane in open_lanes.values():
        for case in everything:
            if case.clients == 1 and case.sort != GIGABYTE:
                bench.measure(lane, case, 1)
    for round_ in range(rounds):
        for number, case in enumerate(everything):
            # Turned by one in each case too, so that none always follows the same neighbour's leftovers.
            for name in in_turn(lanes, round_ + number):
                _say(f"round {round_ + 1} of {rounds}, {case.mode} with {case.clients}: {name}")
                try:
                    found = bench.measure(open_lanes[name], case, seconds)
                except LabError as error:
                    faults.append(str(error))
                    continue
                for metric, value in found.items():
                    samples.add(round_, name, case.mode, case.clients, metric, value, case.unit)
    return samples, faults


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="How often every lane has its turn."
)
@click.option("--seconds", type=click.IntRange(1, 600), default=5, show_default=True, help="How long each turn is.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to FILE.")
@click.option("--lanes", default=",".join(LANES), show_default=True, help="Which lanes, with commas between.")
@click.option("--modes", help="Which modes only, with commas between; all of them where it is not said.")
@click.option("--policies", type=click.Path(exists=True, path_type=Path), default=REPOSITORY / "policies" / "example")
@click.option("--quick", is_flag=True, help="One round of a second each, 8 clients: whether it works, not how fast it is.")
def main(rounds: int, seconds: int, file: Path | None, lanes: str, modes: str | None, policies: Path, quick: bool) -> None:
    """Measure PostgreSQL through each lane in turn: direct, pgbouncer, haproxy and the appliance."""
    names = tuple(dict.fromkeys(lanes.split(",")))
    unknown = [name for name in names if name not in LANES]
    if unknown:
        raise click.BadParameter(f"found {', '.join(unknown)}, expected some of {', '.join(LANES)}", param_hint="--lanes")
    everything = list(cases(CLIENTS))
    if quick:
        # Whoever names a large one has it all the same.
        rounds, seconds, everything = 1, 1, [case for case in cases((8,)) if modes or case.sort not in (GIGABYTE, IDLE)]
    if modes is not None:
        wanted, known = set(modes.split(",")), {case.mode for case in everything}
        if wanted - known:
            found, expected = ", ".join(sorted(wanted - known)), ", ".join(sorted(known))
            raise click.BadParameter(f"found {found}, expected some of {expected}", param_hint="--modes")
        everything = [case for case in everything if case.mode in wanted]
    # A lab must not stay behind when somebody ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load, started = os.getloadavg()[0], time.monotonic()
    with Lab(os.environ.get("SLUICEGATE_LAB", "bench")) as lab:
        samples, faults = run(lab, names, everything, rounds, seconds, policies.resolve())
    figures = samples.figures()
    if file is not None:
        file.write_text(as_json(figures))
    _say("")
    click.echo(as_table(figures), nl=False)
    spread = noise(figures)
    click.echo(
        f"\n{rounds} rounds of {seconds} s each on {os.cpu_count()} cores in {time.monotonic() - started:.0f} s; "
        f"load before: {load:.1f}; noise (spread of direct over the rounds): "
        + ("not known from one round" if spread is None or rounds == 1 else f"{spread:.0%}")
    )
    for fault in faults:
        click.echo(f"bench: {fault}", err=True)
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main(prog_name="./run bench postgres")
    except LabError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)
