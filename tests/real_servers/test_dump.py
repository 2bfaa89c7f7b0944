"""pg_dump: of what is open the same bytes as at the target, of what is protected a clear refusal; and back in again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from lab.laboratory import REPOSITORY, Lab
from lab.machines import Place
from tests.real_servers.clients import OBJECTS, direct, outcome, through

pytestmark = pytest.mark.real

# Otherwise each dump has a random key of its own (CVE-2025-8714).
_DUMP = ("pg_dump", "--restrict-key=k")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"test-{secrets.token_hex(4)}") as one:
        one.fresh_database("objects", OBJECTS)
        one.configure(policies=REPOSITORY / "policies" / "open")
        one.start_appliance()
        yield one


@pytest.fixture(scope="module")
def protecting() -> Iterator[Lab]:
    with Lab(f"test-{secrets.token_hex(4)}") as one:
        one.start_appliance()
        yield one


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--schema-only",),
        ("--data-only", "--inserts", "--rows-per-insert=50"),
        ("--schema=sales", "--column-inserts", "--quote-all-identifiers"),
        ("--table=plain", "--no-owner", "--clean", "--if-exists"),
        ("--serializable-deferrable", "--no-privileges", "--no-comments"),
    ],
    ids=" ".join,
)
def test_a_dump_of_an_open_database_is_the_direct_one(lab: Lab, options: tuple[str, ...]) -> None:
    expected = outcome(direct(lab, [*_DUMP, *options], database="objects"))
    assert expected[2] == 0
    assert len(expected[0]) > 1500
    assert outcome(through(lab, [*_DUMP, *options], database="objects")) == expected


@pytest.mark.parametrize("how", ["--format=custom", "--format=tar"])
def test_a_dump_in_another_format_holds_the_same(lab: Lab, how: str) -> None:
    # The archives tell when they were made, their contents do not; the key is random in what pg_restore writes.
    words = ["sh", "-c", f"pg_dump {how} | pg_restore --file=- | grep -v -E '^.(un)?restrict '"]
    expected = outcome(direct(lab, words, database="objects"))
    assert len(expected[0]) > 20_000
    assert outcome(through(lab, words, database="objects")) == expected


def test_what_a_dump_cannot_have_is_refused_in_words(lab: Lab) -> None:
    # Several connections share a snapshot by pg_export_snapshot(); large objects are read by the fast path (FunctionCall).
    words = ["sh", "-c", 'cd "$HOME" && exec pg_dump -Fd -j 2 -f several']
    done = through(lab, words, database="objects")
    assert done.returncode != 0
    assert "refused" in done.stderr

    lab.fresh_database("large", "select lo_from_bytea(70000, 'large');")
    done = through(lab, _DUMP, database="large")
    assert done.returncode != 0
    assert "refused" in done.stderr


def test_the_data_of_a_dump_can_be_brought_in_again(lab: Lab) -> None:
    tables = ["--table=plain", "--table=sales.events", "--table=sales.events_2024", "--table=sales.events_rest"]
    data = direct(lab, [*_DUMP, "--data-only", *tables], database="objects").stdout
    lab.fresh_database("again", _EMPTY)
    restored = through(lab, ["psql", "--no-psqlrc", "-q", "-v", "ON_ERROR_STOP=1"], database="again", text=data)
    assert (restored.stderr, restored.returncode) == ("", 0)
    assert direct(lab, [*_DUMP, "--data-only", *tables], database="again").stdout == data

    lab.fresh_database("again", _EMPTY)
    archive = lab.folder / "homes" / "archive"
    direct(lab, ["pg_dump", "-Fc", "--data-only", *tables, "-f", str(archive)], database="objects")
    archive.chmod(0o644)
    restored = through(lab, ["pg_restore", "--exit-on-error", "-d", "again", str(archive)], database="again")
    assert (restored.stderr, restored.returncode) == ("", 0)
    assert direct(lab, [*_DUMP, "--data-only", *tables], database="again").stdout == data


_EMPTY = """
create table public.plain (id int primary key, v text);
create schema sales;
create table sales.events (id int, happened date not null, body text) partition by range (happened);
create table sales.events_2024 partition of sales.events for values from ('2024-01-01') to ('2025-01-01');
create table sales.events_rest partition of sales.events default;
"""


@pytest.mark.parametrize(
    "options", [(), ("--data-only",), ("--table=customers",), ("--table=payroll", "--data-only")], ids=" ".join
)
def test_a_dump_of_a_protected_database_is_refused_in_words(protecting: Lab, options: tuple[str, ...]) -> None:
    done = through(protecting, [*_DUMP, *options], database="shop")
    assert done.returncode != 0
    assert "refused" in done.stderr
    assert "COPY " not in done.stdout
    assert "4111" not in done.stdout


def test_a_table_with_nothing_to_protect_is_dumped_beside_protected_ones(protecting: Lab) -> None:
    words = ["psql", "--no-psqlrc", "-c", "copy staging to stdout"]
    assert outcome(through(protecting, words, database="shop")) == outcome(direct(protecting, words, database="shop"))
    assert protecting.run_in(Place.EXECUTOR, ["pg_isready"], "executor").returncode == 0
