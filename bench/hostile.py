"""What one hostile client costs another: an honest one's latency, in turn with and without each way to do harm.

Both go through the same appliance, as different agents. The honest one also asks the server directly: what the hostile one
costs there is the machine's own limit and not the appliance's, because all of the lab runs on the same processors.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from bench import attackers, honest
from bench.figures import DIRECT, Metric, Samples, as_json
from bench.peers import Peers
from lab.database import OWNER, SHOP
from lab.laboratory import AGENT, REPOSITORY, Lab
from lab.machines import EXECUTOR, PLANNER, LabError, Place
from lab.redis_server import RedisServer, cache_resource

GROWTH_MAX: Final = 2.0
"""How much longer than without it an honest client's 99th percentile may be."""

_HOSTILE: Final = "hostile-bot"
_START_SECONDS: Final = 4.0
_SLACK_SECONDS: Final = 60.0
_LANES: Final = (DIRECT, honest.THROUGH)
# Below this a slice says nothing of one in a hundred: what else the machine did is most of it.
_SAMPLES_MIN: Final = 100


@dataclass(frozen=True, slots=True)
class Cost:
    """An honest client's percentiles (microseconds) of one lane without and with one way to do harm, over all rounds."""

    lane: str
    quiet_median: float
    quiet: float
    attacked_median: float
    attacked: float

    @property
    def growth(self) -> float:
        """How many times as long the 99th percentile is."""
        return self.attacked / self.quiet


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1)]


def slices(samples: list[honest.Sample], begin: float, rounds: int) -> Iterator[tuple[int, bool, str, list[float]]]:
    """What each lane took in each slice: round, whether it was the hostile one, lane, latencies."""
    for round_ in range(rounds):
        start = begin + round_ * attackers.ROUND_SECONDS
        for is_attacked in (False, True):
            since = start + attackers.SLICE_SECONDS * is_attacked
            for lane in _LANES:
                until = since + attackers.SLICE_SECONDS
                yield (
                    round_,
                    is_attacked,
                    lane,
                    [one.latency for one in samples if one.lane == lane and since <= one.sent < until],
                )


class Bench:
    """A lab with an honest and a hostile agent."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._password = (lab.folder / "secrets" / OWNER).read_text().strip()
        peers = Peers(lab, self._password, REPOSITORY / "policies" / "open")
        peers.make_links()
        self._direct = peers.start(DIRECT).endpoint(False)[0]
        RedisServer(lab).start()
        lab.configure(
            REPOSITORY / "policies" / "open",
            resources=lab.shop_resource() | cache_resource(),
            agents={
                AGENT: {"owner": "bench@lab.example", "phases": {"execute": {"sources": list(EXECUTOR)}}},
                _HOSTILE: {"owner": "bench@lab.example", "phases": {"plan": {"sources": [*PLANNER, attackers.NOBODY]}}},
            },
        )
        lab.start_appliance()

    def run(self, kind: str, rounds: int) -> tuple[float, list[honest.Sample], str]:
        """One way in so many rounds: when they began, what the honest client took, and what the hostile one did."""
        begin = time.monotonic() + _START_SECONDS
        until = begin + rounds * attackers.ROUND_SECONDS
        quiet = self._start("executor", "honest", str(until))
        assert quiet.stdout is not None
        if quiet.stdout.readline() != "ready\n":
            raise LabError(f"{kind}: the honest client did not begin: {quiet.communicate()[1].strip()[-2000:]}")
        role = None if kind in attackers.AS_ROOT else "planner"
        hostile = self._start(role, "attackers", kind, str(begin), str(rounds))
        limit = until - time.monotonic() + _SLACK_SECONDS
        said, errors = quiet.communicate(timeout=limit)
        done, wrong = hostile.communicate(timeout=limit)
        if quiet.returncode:
            raise LabError(f"{kind}: the honest client failed: {errors.strip()[-2000:]}")
        if hostile.returncode:
            raise LabError(f"{kind}: the hostile client failed: {wrong.strip()[-2000:]}")
        return begin, honest.read_samples(said), done.strip()

    def _start(self, role: str | None, module: str, *words: str) -> subprocess.Popen[str]:
        environment = {
            "PGSSLMODE": "disable",
            "PGUSER": OWNER,
            "PGPASSWORD": self._password,
            "PGDATABASE": SHOP,
            "DIRECT_HOST": self._direct,
            "PYTHONPATH": str(REPOSITORY),
        }
        # The hostile one runs when nobody else wants to: it stands for a machine of its own.
        nice = [] if module == "honest" else ["nice", "-n", "19"]
        command = [*nice, sys.executable, "-P", "-m", f"bench.{module}", *words]
        return self._lab.start_in(Place.EXECUTOR, command, role, environment=environment)


def measure(bench: Bench, kind: str, rounds: int, figures: Samples) -> tuple[list[Cost], str]:
    """One way's cost in both lanes; every slice goes to the figures."""
    begin, samples, done = bench.run(kind, rounds)
    pooled: dict[tuple[str, bool], list[float]] = {}
    for round_, is_attacked, lane, latencies in slices(samples, begin, rounds):
        pooled.setdefault((lane, is_attacked), []).extend(latencies)
        if len(latencies) >= _SAMPLES_MIN:
            mode = kind if is_attacked else f"{kind} (quiet)"
            figures.add(round_, lane, mode, 1, Metric.LATENCY, percentile(latencies, 0.5))
            figures.add(round_, lane, mode, 1, Metric.LATENCY_P99, percentile(latencies, 0.99))
    costs = []
    for lane in _LANES:
        quiet, attacked = pooled[lane, False], pooled[lane, True]
        if not quiet or not attacked:
            raise LabError(f"{kind}: {lane} gave no figures in a slice")
        costs.append(
            Cost(
                lane,
                percentile(quiet, 0.5),
                percentile(quiet, 0.99),
                percentile(attacked, 0.5),
                percentile(attacked, 0.99),
            )
        )
    return costs, done


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 100), default=8, show_default=True, help="How often each has its turn.")
@click.option("--kinds", default=",".join(attackers.KINDS), show_default=True, help="Which ways, with commas between.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to FILE.")
@click.option("--strict", is_flag=True, help="End with 1 where a way costs more than it may.")
def main(rounds: int, kinds: str, file: Path | None, strict: bool) -> None:
    """Measure what one hostile client costs another, one way to do harm after the other."""
    names = tuple(dict.fromkeys(kinds.split(",")))
    unknown = [name for name in names if name not in attackers.KINDS]
    if unknown:
        raise click.BadParameter(f"found {', '.join(unknown)}, expected some of {', '.join(attackers.KINDS)}")
    # A lab must not stay behind when somebody ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures, over = Samples("hostile", _LANES), []
    click.echo(f"{'':15}{'deeds':>9}{'p50 us':>16}{'p99 us':>18}{'p99 grows':>11}{'direct':>8}")
    with Lab(os.environ.get("SLUICEGATE_LAB", "hostile")) as lab:
        bench = Bench(lab)
        for kind in names:
            (direct, through), done = measure(bench, kind, rounds, figures)
            medians = f"{through.quiet_median:,.0f} > {through.attacked_median:,.0f}"
            longest = f"{through.quiet:,.0f} > {through.attacked:,.0f}"
            click.echo(f"{kind:15}{done:>9}{medians:>16}{longest:>18}{through.growth:>10.2f}x{direct.growth:>7.2f}x")
            if through.growth > max(GROWTH_MAX, direct.growth):
                over.append(kind)
    if file is not None:
        file.write_text(as_json(figures.figures()))
    if over:
        click.echo(f"more than {GROWTH_MAX:g} times, and more than directly: {', '.join(over)}")
        if strict:
            sys.exit(1)


if __name__ == "__main__":
    try:
        main(prog_name="./run bench hostile")
    except LabError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)
