"""The lab itself: it comes up whole, stands beside another, and leaves nothing, however far it got."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.configuration import read_configuration
from kernel.gateway import MEMORY
from lab import machines
from lab.laboratory import REPOSITORY, ROOT, Lab
from lab.machines import EXECUTOR, PLANNER, TARGET, LabError, Place

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"test-{secrets.token_hex(4)}") as one:
        yield one


@pytest.fixture
def name() -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    yield name
    Lab(name).down()


# Catches, and says the number of the network namespace (SO_NETNS_COOKIE).
_CATCH = """
import socket
from appliance.settings import NetworkSettings
from kernel.gateway import catch
catch(NetworkSettings(("executors0",)))
print(int.from_bytes(socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8), "little"))
"""


def traces(name: str) -> list[str]:
    """What there is of a lab on this machine."""
    found = [str(path) for path in Path("/run/netns").glob(f"sg-{name}-*")]
    found += [str(path) for path in ROOT.glob(name)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if f"{ROOT}/{name}/".encode() in words or f"sg-{name}-".encode() in words:
            found.append(words.decode(errors="replace"))
    return found


def test_the_shop_is_there(lab: Lab) -> None:
    assert lab.is_up
    assert lab.admin("select count(*) from customers") == [(200,)]
    assert lab.admin("select rolsuper from pg_roles where rolname = 'shop_owner'") == [(True,)]
    columns = lab.admin("select card_number, email, ssn from customers")
    assert all(_passes_luhn(card) for card, _, _ in columns)
    assert len(set(columns)) == 200


def _passes_luhn(number: str) -> bool:
    digits = [int(digit) for digit in reversed(number)]
    return sum(digits[::2]) % 10 == -sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2]) % 10


def test_nothing_leads_from_the_executor_to_the_target_by_itself(lab: Lab) -> None:
    for place in (TARGET.ipv4, TARGET.ipv6):
        seen = lab.run_in(
            "executor", ["psql", "-c", "select 1"], "executor", environment={"PGHOST": place, "PGCONNECT_TIMEOUT": "2"}
        )
        assert seen.returncode != 0


@pytest.mark.parametrize(("as_", "party"), [("planner", PLANNER), ("executor", EXECUTOR), (None, EXECUTOR)])
def test_who_connects_decides_the_source_address(lab: Lab, as_: str | None, party: machines.Pair) -> None:
    for destination, source in zip(TARGET, party, strict=True):
        words = [
            "python3",
            "-c",
            f"import socket; s = socket.socket(socket.{'AF_INET6' if ':' in source else 'AF_INET'}, "
            f"socket.SOCK_DGRAM); s.connect(('{destination}', 9)); print(s.getsockname()[0])",
        ]
        assert lab.run_in("executor", words, as_, environment={"PATH": "/usr/bin"}).stdout.strip() == source


def test_the_server_wants_the_password_and_shows_its_certificate(lab: Lab) -> None:
    strict = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(lab.database.authorities), "PGCONNECT_TIMEOUT": "5"}
    password = (lab.folder / "secrets/shop_owner").read_text().strip()
    for address in TARGET:
        there = {**strict, "PGHOST": address}
        assert "no password" in lab.run_in("target", ["psql", "-c", "select 1"], environment=there).stderr
        there["PGPASSWORD"] = password
        seen = lab.run_in(
            "target", ["psql", "-Atc", "select ssl from pg_stat_ssl where pid = pg_backend_pid()"], environment=there
        )
        assert seen.stdout == "t\n"


def test_the_log_has_every_statement(lab: Lab) -> None:
    mark = f"select '{secrets.token_hex(8)}'"
    lab.admin(mark)
    assert [entry["message"] for entry in lab.logged() if mark in entry["message"]] == [f"statement: {mark}"]


def test_a_database_is_fresh_each_time(lab: Lab) -> None:
    contents = "create table t (n int); insert into t values (1), (2)"
    for _ in range(2):
        lab.fresh_database("fresh", contents)
        assert lab.admin("delete from t returning n", "fresh") == [(1,), (2,)]
    lab.fresh_database("fresh", "create table u (n int)")
    assert lab.admin("select relname from pg_class where relname in ('t', 'u')", "fresh") == [("u",)]


def test_only_control_reads_the_password_and_only_root_the_way_in(lab: Lab) -> None:
    secret = (lab.folder / "secrets/shop_owner").stat()
    assert (secret.st_uid, secret.st_mode & 0o777) == (61002, 0o600)
    for as_ in ("planner", "executor"):
        for path in ("secrets/shop_owner", "target/socket", "target/log"):
            assert lab.run_in("executor", ["ls", str(lab.folder / path)], as_).returncode != 0, path


def test_its_configuration_is_a_good_one(lab: Lab) -> None:
    settings = read_configuration(str(lab.configure()), frozenset({"postgres"}))
    assert [str(address) for address in settings.resources[0].addresses] == ["10.81.2.2:5432", "[fd81:2::2]:5432"]


def test_two_labs_stand_side_by_side(lab: Lab, name: str) -> None:
    with Lab(name) as other:
        other.admin("delete from orders")
        assert other.admin("select count(*) from orders") == [(0,)]
        assert lab.admin("select count(*) from orders") == [(600,)]
    assert traces(name) == []
    assert lab.admin("select count(*) from orders") == [(600,)]


def test_down_leaves_nothing_and_is_fine_again(name: str) -> None:
    lab = Lab(name)
    lab.up()
    lab.start_in("executor", ["sleep", "600"], "planner")
    # One that nobody remembers, as a killed supervisor leaves it.
    lost = subprocess.Popen(lab.command("appliance", ["sleep", "600"]))
    caught = lab.run_in("appliance", [sys.executable, "-c", _CATCH], environment={"PYTHONPATH": str(REPOSITORY)})
    assert caught.returncode == 0, caught.stderr
    file = MEMORY / f"{caught.stdout.strip()}.json"
    assert file.exists()
    assert traces(name) != []
    Lab(name).down()
    assert not file.exists()
    assert lost.wait() != 0
    assert traces(name) == []
    Lab(name).down()
    assert not Lab(name).is_up


def test_up_begins_anew(name: str) -> None:
    lab = Lab(name)
    lab.up()
    lab.admin("drop table orders cascade")
    lab.up()
    assert lab.admin("select count(*) from orders") == [(600,)]
    lab.down()


@pytest.mark.parametrize("place", Place)
def test_an_up_that_fails_half_way_leaves_nothing(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.machines.TARGET_SIDE", machines.Pair("not an address", "either"))
    with pytest.raises(LabError, match="not an address"):
        Lab(name).up()
    assert traces(name) == []
    # The same where the process itself was killed half-way: only a part of it is there, and nothing that says so.
    subprocess.run(["ip", "netns", "add", machines.namespace(name, place)], check=True)
    (ROOT / name).mkdir()
    (ROOT / name / "processes.json.fresh").write_text("[[")
    Lab(name).down()
    assert traces(name) == []


@pytest.mark.parametrize("name", ["", "../x", "A", "a" * 41, "a b", "-a"])
def test_a_name_that_could_mean_something_else_is_refused(name: str) -> None:
    with pytest.raises(LabError):
        Lab(name)
