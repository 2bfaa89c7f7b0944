"""psql and pgbench as they are: what they show through the appliance is what they show at the target."""

from __future__ import annotations

import os
import pty
import re
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from lab.laboratory import Lab
from lab.machines import Place
from tests.real_servers.clients import APPLICATION, OBJECTS, direct, outcome, through

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"test-{secrets.token_hex(4)}") as one:
        one.fresh_database("objects", OBJECTS)
        one.fresh_database("application", APPLICATION)
        one.start_appliance()
        yield one


# Not here: \conninfo and \dconfig without a pattern, which tell how the connection was made; \dRs and \deu, refused by rule.
_DESCRIBING = r"""
\d
\d+
\dS
\dS+
\d sales.*
\d+ sales.*
\d public.plain
\d+ "Odd name"
\d sales.cli*
\dt
\dt+ *.*
\dtvmsE+ sales.*
\di+ sales.*
\dv+ sales.*
\dm+ sales.*
\ds+ sales.*
\dE+ sales.*
\df+ sales.*
\df doubled
\df sales.doubled int
\dfa sales.*
\dft sales.*
\dfp sales.*
\dfw
\da+ sales.*
\dA+
\dAc+ btree
\dAf+ btree
\dAo+ btree
\dAp+ btree
\du+
\dg
\dn+
\dnS
\l+
\l obj*
\dp
\dp sales.*
\z public.plain
\ddp
\dT+ sales.*
\dTS+
\dC+
\dO+ sales.*
\do+ sales.*
\doS =
\do = int int
\dD+ sales.*
\dx
\dx+ pg_trgm
\dy+
\dRp+
\dew+
\des+
\det+ sales.*
\drds
\drds shop_owner
\db+
\dconfig+ *mem*
\dconfig work_mem
\dc+ sales.*
\dd
\dd sales.*
\dF+ sales.*
\dFd+ sales.*
\dFp+
\dFt+
\dL+
\dl
\lo_list+
\dP+ sales.*
\dPt sales.*
\dPi sales.*
\dX sales.*
\sf sales.doubled
\sf+ sales.greet(text)
\sv+ sales.happy
\encoding
\h select
\d nothing
\sf nothing
\sv nothing
""".strip().splitlines()


def test_everything_that_describes_is_the_same(lab: Lab) -> None:
    script = "".join(f"\\echo --- {line[1:]}\n{line}\n" for line in _DESCRIBING)
    # Both streams in one, so that a difference stands beneath its command.
    words = ["sh", "-c", "exec psql --no-psqlrc 2>&1"]
    expected = direct(lab, words, database="objects", text=script).stdout
    seen = through(lab, words, database="objects", text=script).stdout
    assert expected.count("\n") > 1500
    assert seen == expected


# What differs from run to run, and what the appliance adds to an error of the server's: the rule, and what to do.
_PASSING = re.compile(r"(?m)(?<=with PID )\d+|(?<=pg_temp_)\d+|^(?:DETAIL:  refused: |HINT:  write it in a simpler way).*\n")
_WORKING = r"""
\set QUIET on
\pset pager off
\timing off
select id, v from plain where id < 4 order by id \gset before_ \\
select 7 as number, 'seven' as word \gset
\echo :number :'word' :"word"
select 'select ' || n || ' as made' from generate_series(1, 3) n \gexec
select id, v as text, now() as moment from plain \gdesc
select made, client, amount from sales.bills where id < 7 \crosstabview client made amount
select 1 / 0;
\errverbose
select nothing from plain;
\echo :ERROR :SQLSTATE :ROW_COUNT :LAST_ERROR_MESSAGE
\if :ERROR
  \echo it was an error
\elif true
  \echo it was none
\endif
select id from plain where id = :number \g
select id, v from plain where id = 1 \gx
select id, v from plain where id < 3 order by id \g (format=csv tuples_only)
\x on
select * from sales.clients order by id;
\x off
select * from sales.clients order by id;
\pset null NULL
\pset format html
select * from sales.clients order by id;
\pset format aligned
begin;
update plain set v = 'changed' where id = 1 returning *;
savepoint one;
select 1 / 0;
rollback to one;
select v from plain where id = 1;
rollback;
\set AUTOCOMMIT off
update plain set v = 'changed' where id = 1;
rollback;
\set AUTOCOMMIT on
\set ON_ERROR_ROLLBACK on
begin;
select 1 / 0;
select 'still there';
commit;
\set ON_ERROR_ROLLBACK off
\set FETCH_COUNT 37
select id, amount from sales.bills order by id;
\unset FETCH_COUNT
\copy (select id, v from plain where id < 5 order by id) to stdout csv header
copy (select id, v from plain where id < 5 order by id) to stdout;
\copy plain (id, v) from stdin
900	nine hundred
901	\N
\.
copy plain (id, v) from stdin with (format csv);
902,"a ""quoted"" one"
\.
copy plain (id, v) from stdin;
wrong	wrong
\.
select id, v from plain where id >= 900 order by id;
prepare p (int) as select v from plain where id = $1;
execute p (900);
deallocate p;
declare c cursor with hold for select id from plain order by id;
fetch 3 from c;
move 10 from c;
fetch 1 from c;
close c;
select 1 \; select 2 \; select 3;
values (1, 'a'), (2, 'b');
table plain limit 2;
explain (costs off) select * from plain where id = 1;
create temporary table mine as select * from plain where id < 3;
\d mine
select * from mine;
drop table mine;
select repeat('x', 100000);
set search_path = sales, public;
\dt
select count(*) from bills;
reset search_path;
show server_version;
show search_path;
listen news;
notify news, 'said';
select 'heard';
unlisten *;
"""


def test_an_ordinary_session_is_the_same(lab: Lab) -> None:
    seen = []
    for run in (direct, through):
        lab.fresh_database("working", APPLICATION)
        done = run(lab, ["sh", "-c", "exec psql --no-psqlrc 2>&1"], database="working", text=_WORKING)
        seen.append(_PASSING.sub("", done.stdout))
    assert seen[0].count("\n") > 500
    assert seen[1] == seen[0]


def test_definitions_can_be_edited_and_files_copied(lab: Lab) -> None:
    # What the editor leaves unchanged is not sent by \ef; \e runs it.
    script = "\\ef sales.doubled\n\\r\n\\ev sales.happy\n\\r\nselect 12\n\\e\n;\n"
    script += "\\copy sales.bills to 'bills.copied'\n\\! md5sum < bills.copied; rm bills.copied\n"
    words = ["sh", "-c", 'cd "$HOME" && exec psql --no-psqlrc 2>&1']
    seen = [
        outcome(run(lab, words, database="objects", text=script, PSQL_EDITOR="cat", HOME=home))
        for run, home in ((direct, "/tmp"), (through, str(lab.folder / "homes/executor")))
    ]
    assert "CREATE OR REPLACE FUNCTION sales.doubled" in seen[0][0]
    assert "12" in seen[0][0]
    assert seen[1] == seen[0]


class Terminal:
    """A psql at a terminal of its own, in the executor's machine."""

    def __init__(self, lab: Lab, database: str, *, is_direct: bool = False) -> None:
        self._mine, theirs = pty.openpty()
        self._said = ""
        own = {"PGHOST": str(lab.database.socket)} if is_direct else {}
        # -n would switch off what readline asks the server for.
        words = [
            "setsid",
            "--ctty",
            "psql",
            "--no-psqlrc",
            "-v",
            "PROMPT1=ready%x> ",
            "-v",
            "PROMPT2=more> ",
            "-P",
            "pager=off",
        ]
        self._process = subprocess.Popen(
            lab.command(Place.EXECUTOR, words, None if is_direct else "executor"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd="/",
            env={**lab.environment("executor"), "PGDATABASE": database, "TERM": "dumb", "INPUTRC": "/dev/null", **own},
        )
        os.close(theirs)
        self.until("ready> ")

    def until(self, wanted: str, seconds: float = 20.0) -> str:
        """Read up to and with that text."""
        deadline = time.monotonic() + seconds
        while wanted not in self._said:
            if not select.select([self._mine], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no {wanted!r} in {self._said!r}")
            self._said += os.read(self._mine, 65536).decode(errors="replace")
        before, _, self._said = self._said.partition(wanted)
        return before + wanted

    def type(self, keys: str) -> None:
        os.write(self._mine, keys.encode())

    def run(self, line: str) -> str:
        """Type a line and answer what it shows up to the next prompt."""
        self.type(line + "\n")
        self.until("\n")
        return self.until("> ")

    def close(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._mine)


@pytest.fixture
def terminal(lab: Lab) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(database: str, *, is_direct: bool = False) -> Terminal:
        opened.append(Terminal(lab, database, is_direct=is_direct))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


# Typed up to where the tab is struck; each asks the server something else.
_COMPLETED = [
    "select * from sales.b",
    'select * from "Od',
    "\\d sales.",
    "\\dt sal",
    "\\df sales.do",
    "\\dT sales.mo",
    "\\dn sa",
    "\\sf sales.gre",
    "\\sv sales.ha",
    "\\l obj",
    "\\du shop_",
    "\\dx pg_tr",
    "\\dy watc",
    "\\dRp every",
    "\\des else",
    "\\encoding LAT",
    "\\c obj",
    "insert into pub",
    "insert into sales.bills (amo",
    "update sales.clients set weig",
    "alter table sales.bills add constraint x foreign key (cli",
    "alter table sales.bills drop constraint bills_ap",
    "alter type sales.mood rename value 'ha",
    "drop trigger bills_st",
    "drop trigger bills_stamp on sa",
    "drop policy own on ",
    "drop function sales.doub",
    "comment on column sales.clients.ho",
    "grant select on sales.tot",
    "set search_path to sal",
    "set work_",
    "set session authorization shop_",
    "show stand",
    "reset enable_seq",
    "refresh materialized view sa",
    "alter publication everything add table sa",
    "alter extension pg_trgm update to '1",
    "alter text search configuration sales.wo",
    "create index on sales.bills using ",
    "lock table sales.cli",
    "vacuum sales.cli",
    "select * from sales.clients where nam",
    "call sales.ti",
    "execute ",
    "listen ",
    "deallocate ",
]


def test_completion_shows_the_same(terminal: Callable[..., Terminal]) -> None:
    shown = []
    for is_direct in (True, False):
        one = terminal("objects", is_direct=is_direct)
        one.run("prepare something as select 1;")
        told = []
        for keys in _COMPLETED:
            # Twice, so that several candidates are listed; then the line is given up.
            one.type(keys + "\t\t\x15\\echo end-of-it\n")
            told.append(one.until("\nend-of-it"))
            one.until("> ")
        shown.append(told)
    assert "ills" in shown[0][0]
    assert shown[1] == shown[0]


def test_interrupting_a_long_query_cancels_it_and_the_session_goes_on(terminal: Callable[..., Terminal], lab: Lab) -> None:
    one = terminal("application")
    one.type("select pg_sleep(30);\n")
    _wait_until(
        lambda: lab.admin("select 1 from pg_stat_activity where query like 'select pg_sleep(30)%' and state = 'active'")
    )
    one.type("\x03")
    assert "ERROR:  canceling statement due to user request" in one.until("ready> ")
    assert "still" in one.run("select 'still' || ' here';")
    one.run("begin;")
    one.type("select pg_sleep(31);\n")
    _wait_until(
        lambda: lab.admin("select 1 from pg_stat_activity where query like 'select pg_sleep(31)%' and state = 'active'")
    )
    one.type("\x03")
    assert "canceling statement" in one.until("ready!> ")
    assert "ROLLBACK" in one.run("commit;")


def test_interrupting_a_held_command_withdraws_it_and_the_session_goes_on(
    terminal: Callable[..., Terminal], lab: Lab
) -> None:
    one = terminal("application")
    one.type("delete from plain where id = 1;\n")
    one.until("a person is being asked")
    one.type("\x03")
    assert "ERROR:  canceling statement due to user request" in one.until("ready> ")
    assert "value 1" in one.run("select v from plain where id = 1;")
    assert lab.run_sluicegate("approvals", "list").stdout.count("delete from plain") == 0


def test_watching_repeats_until_it_is_interrupted(terminal: Callable[..., Terminal]) -> None:
    one = terminal("application")
    one.type("select 'watched' as word \\watch 0.1\n")
    for _ in range(3):
        one.until("(1 row)")
    one.type("\x03")
    one.until("ready> ")
    assert "still" in one.run("select 'still' || ' here';")


def _wait_until(answers: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not answers():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("kind", ["tpcb-like", "simple-update", "select-only"])
def test_pgbench_runs_without_a_failed_transaction(bench: Lab, protocol: str, kind: str) -> None:
    words = ["pgbench", "-n", "-b", kind, "-M", protocol, "-c", "8", "-j", "2", "-t", "25"]
    done = through(bench, words, database="bench")
    assert done.returncode == 0, done.stderr
    assert "number of transactions actually processed: 200/200" in done.stdout
    assert "number of failed transactions: 0 (0.000%)" in done.stdout
    # What every kind but the last adds up must stay equal: no statement was lost, none ran twice.
    sums = bench.admin(
        "select (select sum(abalance) from pgbench_accounts), (select sum(delta) from pgbench_history)", "bench"
    )
    assert sums[0][0] == (sums[0][1] or 0)


@pytest.fixture(scope="module")
def bench(lab: Lab) -> Lab:
    lab.fresh_database("bench", "")
    # pgbench drops its tables first and then alters them, which is more than the policy allows an agent.
    done = direct(lab, ["pgbench", "-i", "-q", "-s", "1"], database="bench")
    assert done.returncode == 0, done.stderr
    return lab
