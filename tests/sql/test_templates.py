"""One reading for texts that differ in values alone: it is the one that each of them has when it is read in full."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.protocols.postgres.readings import ReadingCache
from appliance.sql import templates
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue
from appliance.sql.catalogue_queries import QUERIES, build
from appliance.sql.reading import SessionView
from appliance.sql.redaction import redact
from appliance.sql.templates import around_number, cut, kept_literals
from tests.scratch_postgres import ScratchPostgres
from tests.sql.test_analysis import database, shop
from tests.sql.test_ordinary_sql import ORDINARY

__all__ = ["database", "shop"]

BYPASSES = Path(__file__).parent.parent / "bypasses"

# What a literal may be exchanged for, by its kind: values that mean something elsewhere, that are hidden, or that look like
# the beginning or end of something else.
WORDS = [
    "''",
    "'x'",
    "'O''Brien'",
    "''''",
    "'4111 1111 1111 1111'",
    "'4111''111111111111'",
    "'ada@corp.example'",
    "'ada''s@corp.example'",
    "'512-44-8821'",
    "'search_path'",
    "'public.payroll'",
    "'payroll'",
    "'orders_id_seq'",
    "'select * from payroll'",
    "'execute'",
    "'on'",
    "'t'",
    "'é ß 😀'",
    "'\n'",
    "'--'",
    "'/*'",
    "'*/'",
    "'$$'",
    "' || '",
    "'1'",
    "'2024-01-01'",
    "'{1,2}'",
    "'$.card_number'",
    "'%'",
]
NUMBERS = {
    "i": ["0", "1", "2", "3", "9", "007", "42", "999999999", "2147483647", "0000000000000001"],
    "l": ["2147483648", "4111111111111111", "9223372036854775807", "00009223372036854775807"],
    "n": ["9223372036854775808", "41111111111111111111111111", "1" * 60],
    "f": ["0.5", "1.0", "41111111.11111111", "4111111111111111.00", "007.70"],
}
ANY_NUMBER = [number for numbers in NUMBERS.values() for number in numbers]


def exchanged(text: str, choose: random.Random, *, kinds_too: bool = False, but: tuple[int, ...] = ()) -> str:
    """The text with every literal that can be cut out exchanged for another, save those at the places `but`."""
    place = -1

    def other(match: re.Match[str]) -> str:
        nonlocal place
        place += 1
        if place in but:
            return match[0]
        if match[0][0] == "'":
            return choose.choice(WORDS)
        kind = templates._INT4 if match[0].isdigit() and len(match[0]) <= 9 else templates._kind(match[0])
        return choose.choice(ANY_NUMBER if kinds_too else NUMBERS[kind])

    return templates._LITERAL.sub(other, text)


def variants(text: str, choose: random.Random) -> Iterator[str]:
    """The text; four texts that differ in mere values, so that a template serves the last; and some that differ in more."""
    yield text
    parts = cut(text)
    but = (kept_literals(parts) if parts is not None else None) or ()
    for _ in range(4):
        yield exchanged(text, choose, but=but)
    for _ in range(2):
        yield exchanged(text, choose)
    yield exchanged(text, choose, kinds_too=True)


class Served:
    """A cache whose every answer is held against the text read in full."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.session = SessionView(catalogue.search_path)
        self.cache = ReadingCache(read)
        self.by_template = 0

    def hold(self, text: str) -> None:
        whole = read(text, self.catalogue, self.session)
        found = self.cache.find(text, self.catalogue, self.session)
        if found is not None:
            assert found.reading == whole, text
            assert found.key.effects == whole.effects
            self.by_template += found.template is not None
            assert found.hidden == redact(text, hide_literals=True)
            assert found.is_eligible or found.template is None
        reading, key = self.cache.read(text, self.catalogue, self.session)
        assert reading == whole, text
        assert key is None or key.effects == whole.effects


def test_ordinary_texts_are_read_alike_with_any_literals(shop: Catalogue) -> None:
    choose = random.Random(7)
    served = Served(shop)
    for text in ORDINARY:
        for each in variants(text, choose):
            served.hold(each)
    assert served.by_template > 50


@pytest.fixture(scope="module")
def bypassed(scratch_postgres: ScratchPostgres) -> Catalogue:
    name = scratch_postgres.fresh_database(BYPASSES / "fixtures" / "postgres.sql")
    found: dict[str, str] = {}
    with psycopg.connect(scratch_postgres.connection_string(name), autocommit=True) as connection:
        connection.execute("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ; SET LOCAL search_path = ''")
        for each, query in QUERIES:
            ((found[each],),) = connection.execute(query).fetchall()
        connection.execute("COMMIT")
    return build(found)


def test_ways_round_are_read_alike_with_any_literals(bypassed: Catalogue) -> None:
    choose = random.Random(11)
    served = Served(bypassed)
    for file in sorted(BYPASSES.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            for text in case.get("statements", ()):
                if isinstance(text, str) and case["engine"] == "postgres":
                    for each in variants(text.replace("{{VICTIM}}", "victim"), choose):
                        served.hold(each)
    assert served.by_template > 500


# --- made up statements

_columns = st.sampled_from(["c.id", "c.name", "c.email", "c.card_number", "c.city"])
_literals = st.one_of(st.sampled_from(WORDS), st.sampled_from(ANY_NUMBER), st.integers(-9, 10**10).map(str))
_types = st.sampled_from(["text", "int", "bigint", "numeric", "numeric(5,2)", "date", "regclass", "name", "jsonb", "int[]"])
_operators = st.sampled_from(
    ["=", "<>", "<", ">=", "+", "-", "||", "like", "~", "@>", "->", "->>", "~~~", "operator(pg_catalog.=)"]
)
_functions = st.sampled_from(
    [
        "lower",
        "coalesce",
        "greatest",
        "nextval",
        "f_double",
        "set_config",
        "current_setting",
        "to_tsvector",
        "is_fine",
        "abs",
    ]
)


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, _operators, inner).map(" ".join),
        st.tuples(inner, inner, inner).map(lambda each: f"{each[0]} between {each[1]} and {each[2]}"),
        st.tuples(inner, st.lists(inner, min_size=1, max_size=3)).map(lambda each: f"{each[0]} in ({', '.join(each[1])})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda each: f"({' '.join(each)})"),
        inner.map(lambda each: f"not ({each})"),
        inner.map(lambda each: f"- {each}"),
        st.tuples(inner, _types).map("::".join),
        st.tuples(_functions, st.lists(inner, max_size=2)).map(lambda each: f"{each[0]}({', '.join(each[1])})"),
        inner.map(lambda each: f"case when {each} then 1 else 0 end"),
        inner.map(lambda each: f"exists (select 1 from payroll where {each} limit 5)"),
        inner.map(lambda each: f"id in (select id from crm where {each})"),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: f"array[{', '.join(each)}]"),
    )


_expressions = st.recursive(st.one_of(_columns, _literals), _larger, max_leaves=6)
_tails = st.sampled_from(
    ["", " limit 5", " order by 1", " order by 2, id limit 3 offset 4", " for update", ";", " -- 5", "\n"]
)
_statements = st.one_of(
    st.tuples(_expressions, _expressions, _tails).map(
        lambda each: f"select c.id, {each[0]} from customers c where {each[1]}{each[2]}"
    ),
    st.tuples(_expressions, _expressions, _tails).map(
        lambda each: (
            f"select c.name, o.amount from customers c join orders o on o.customer_id = c.id and {each[0]} "
            f"where {each[1]}{each[2]}"
        )
    ),
    st.tuples(_expressions, _expressions).map(
        lambda each: (
            f"with q as (select id from customers c where {each[0]}) select count(*) from q, customers c where {each[1]}"
        )
    ),
    st.lists(_literals, min_size=2, max_size=2).map(
        lambda each: f"insert into mailbox (id, subject) values ({each[0]}, {each[1]}), (5, 'x')"
    ),
    st.tuples(_literals, _literals).map(lambda each: f"insert into assets (id) values ({each[0]}) returning {each[1]}"),
    st.tuples(_expressions, _expressions).map(lambda each: f"update customers c set city = {each[0]} where {each[1]}"),
    st.tuples(_expressions, _tails).map(
        lambda each: f"delete from payroll using customers c where {each[0]}{each[1] if 'by' not in each[1] else ''}"
    ),
    st.tuples(_expressions, _tails).map(lambda each: f"select * from hr, customers c where who = {each[0]}{each[1]}"),
)


@settings(max_examples=400, deadline=None)
@given(text=_statements, seed=st.integers(0, 2**32))
def test_made_up_statements_are_read_alike_with_any_literals(shop: Catalogue, text: str, seed: int) -> None:
    served = Served(shop)
    for each in variants(text, random.Random(seed)):
        served.hold(each)


# --- the scanner

_LETTERS = "'\"$\\-/*eExXuU&nNbBoO019._ \n\r\t;,()=+<>:@aé×\u00a0\u2028"
_scraps = st.lists(
    st.one_of(
        st.text(_LETTERS, max_size=6),
        st.sampled_from(WORDS),
        st.sampled_from(ANY_NUMBER),
        st.sampled_from(
            ["--", "/*", "*/", "E'", "U&'", "N'", "x'", "$$", "$a$", '"', " UESCAPE ", "\n", "''", "::", "1e", "0x", "$1"]
        ),
    ),
    max_size=12,
).map("".join)


@settings(max_examples=1_500, deadline=None)
@given(text=_scraps, seed=st.integers(0, 2**32))
def test_a_skeleton_that_is_cut_well_once_is_cut_well_with_any_literals(text: str, seed: int) -> None:
    parts = cut(text)
    if parts is None or not templates._is_cut_well(parts):
        return
    choose = random.Random(seed)
    for _ in range(6):
        other = cut(exchanged(text, choose))
        assert other is not None
        # A text that is cut otherwise with them is none of this skeleton.
        assert other.skeleton != parts.skeleton or templates._is_cut_well(other)


@settings(max_examples=300, deadline=None)
@given(word=st.text(max_size=20), number=st.integers(0, 10**22))
def test_any_value_stands_for_any_other(word: str, number: int) -> None:
    word = word.replace("'", "''")
    parts = cut(f"select a from b where c = '{word}' and d < {number}")
    if "\0" in word or "\\" in word:
        assert parts is None or kept_literals(parts) is None or len(parts.literals) == 1
        return
    assert parts is not None
    assert parts.literals == (f"'{word}'", str(number))
    if all(not 0xD800 <= ord(letter) <= 0xDFFF for letter in word):
        assert kept_literals(parts) == ()


# --- what is a value and what is not


def kept(text: str) -> list[str] | None:
    parts = cut(text)
    assert parts is not None
    places = kept_literals(parts)
    return None if places is None else [parts.literals[place] for place in places]


@pytest.mark.parametrize(
    "text",
    [
        "select a from t where b = 5",
        "select a from t where b = -5 and c = - 6 and d > + 7",
        "select a from t where 'x' = b",
        "select a from t where b in (1, 2, 3) and c not in ('x', 'y')",
        "select a from t where b between 1 and 2 and c not between symmetric 'x' and 'y'",
        "select a from t where b like 'x%' and c not ilike '%y'",
        "select a from t where b = any ('{1,2}') and c = any (array[1, 2]) and d = any ('{1}'::int[])",
        "select a from t where b is distinct from 5 or not c <> 6",
        "select a from t where b > '2024-01-01'::date and c < cast('12:00' as time) and d = interval '1 day'",
        "select a from t where (b, c) = (1, 'x') and (b, c) in ((1, 2), (3, 4))",
        "select a from t where b + 5 > c * 2 and d || 'x' = 'y'",
        "select a from t join u on t.a = u.a and u.b = 5 where t.c = coalesce(d, 6) and e < greatest(f, 7)",
        "select a from t where exists (select from u where b = 5) and c in (select d from u where e = 'x')",
        "with q as (select a from t where b = 5) select a from q having count(*) > 5",
        "select a from t where b = 5 union all select a from u where b = 6 except select a from v where c = 7",
        "insert into t (a, b) values (1, 'x'), (-2, null), (3000000000, 'y')",
        "insert into t (a) values (1) on conflict (a) do update set a = 5, b = excluded.b + 6 where t.c = 7",
        "insert into t select a from u where b = 5",
        "update t set a = 5, b = b + -6, c = 'x'::jsonb where d = 7",
        "delete from t using u where t.a = u.a and u.b = 'x' returning t.a",
    ],
)
def test_values_are_told(text: str) -> None:
    assert kept(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select 5, 'x', a + 6 from t where b = 7", ["5", "'x'", "6"]),
        ("select a from t where b = 5 limit 10 offset 20", ["10", "20"]),
        ("select a from t where b = 5 fetch first 3 rows only", ["3"]),
        ("select a, b from t where c = 5 order by 1, 2", ["1", "2"]),
        ("select a, count(*) from t where c = 5 group by 1", ["1"]),
        ("select distinct on (1) a from t where c = 5", ["1"]),
        ("select a from t where c = 5 order by d + 2", ["2"]),
        ("select a from t where c = 'x'::regclass and d = 'y'::name and e = 'z'::myown", ["'x'", "'y'", "'z'"]),
        ("select a from t where c = 5::regclass and d = 'y'", ["5"]),
        ("select a from t where c = '1'::numeric(7, 3) and d = 'y'", ["'1'", "7", "3"]),
        ("select a from t where c = interval(3) '1' and d = 'y'", ["3", "'1'"]),
        ("select a from t where c = interval '1' day and d = 'y'", ["'1'"]),
        ("select a from t where nextval('s') = 5", ["'s'"]),
        ("select a from t where lower('S') = 's' and b = 5", ["'S'"]),
        ("select a from t where has_table_privilege('t', 'select') and b = 5", ["'t'", "'select'"]),
        ("select a from t where b @@ to_tsquery('english', 'x') and c = 5", ["'english'", "'x'"]),
        ("select a from t where b @@ 'x' and c @? '$.a' and d -> 'e' = 'f'", ["'x'", "'$.a'", "'e'"]),
        ("select a from t where b ~ 'x+' and c similar to 'y' and d = 5", ["'x+'", "'y'"]),
        ("select a from t where b like 'x' escape '!' and c = 5", ["'x'", "'!'"]),
        ("select a from t where b operator(public.=) 5 and c operator(pg_catalog.=) 6", ["5"]),
        ("select a from t where b[1] = 5 and c[2:3] = '{}'", ["1", "2", "3"]),
        ("select a from t where case when b = 5 then 6 else 7 end = 8", ["5", "6", "7"]),
        ('select a from t where b = 5 collate "C" and c = 6', ["5"]),
        ("select a from generate_series(1, 5) as t (a) where a = 6", ["1", "5"]),
        ("select a from t tablesample system (5) repeatable (6) where a = 7", ["5", "6"]),
        ("select a from (values (1, 'x')) as v (a, b) where a = 5", ["1", "'x'"]),
        ("select a from t where b = (values (1)) and c = 5", ["1"]),
        ("insert into t (a) values (nextval('s')), (5)", ["'s'"]),
        ("insert into t (a) values ((select 5)), (6)", ["5"]),
        ("insert into t (a[1]) values (5)", ["1"]),
        ("insert into t (a) values (5) returning 6, 'x'", ["6", "'x'"]),
        ("insert into t (a) select 5 from u where b = 6", ["5"]),
        ("insert into t (a) values (5) on conflict (lower('x')) where b = 7 do nothing", ["'x'", "7"]),
        ("insert into t (a) values (5), (6) limit 7", ["7"]),
        ("update t set (a, b) = (5, 6) where c = 7", ["5", "6"]),
        ("update t set a[1] = 5 where c = 7", ["1"]),
        ("select sum(a) filter (where b = 5) over (rows 6 preceding) from t where c = 7", ["5", "6"]),
    ],
)
def test_what_is_no_mere_value_is_kept(text: str, expected: list[str]) -> None:
    assert kept(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "values (1, 2) limit 5",
        "select set_config(name, 'x', false) from pg_settings where name = 'search_path'",
        "select current_setting(name) from pg_settings where name = 'x'",
        "select a from t where b = 5; select a from t where b = 6",
        "set statement_timeout = 5",
        "explain select a from t where b = 5",
        "copy t from stdin (delimiter ',')",
        "prepare p as select a from t where b = 5",
        "declare c cursor for select a from t where b = 5",
        "do 'begin end'",
        "merge into t using u on t.a = 5 when matched then delete",
        "create table t (a varchar(5))",
        "alter role r password 'x'",
        "notify c, 'x'",
        "select a from t where b = E'x' and c = 'y'",
        "select a from t where b = B'1' and c = X'1'",
        "select a from t where b = U&'x' and c = 'y'",
        "select a from t where b = 'x'\n'y'",
        "select a from t where b = 'x' -- 'y'\n",
        "select a from t where b = 5 /* 6 */",
        "select a from t where b = $$'x'$$",
        'select a as "it\'s", b as "that\'s" from t',
        "select a from t where b = 'x\\' and c = 'y'",
    ],
)
def test_texts_of_other_sorts_have_no_template(text: str) -> None:
    found = kept(text)
    parts = cut(text)
    assert found is None or (parts is not None and len(found) == len(parts.literals))


def test_an_integer_of_another_size_is_another_template() -> None:
    skeletons = set()
    for number in ("1", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808", "1.0", "'1'"):
        parts = cut(f"select a from t where b = {number}")
        assert parts is not None
        skeletons.add(parts.skeleton)
    assert len(skeletons) == 5


def test_nothing_of_an_earlier_text_is_in_a_later_ones_reading(shop: Catalogue) -> None:
    cache = ReadingCache(read)
    session = SessionView(shop.search_path)
    for secret in ("first-secret", "second-secret", "third-secret"):
        text = f"  select name from customers where city = '{secret}' and id < 1000 ; "
        reading, _ = cache.read(text, shop, session)
        assert secret in reading.statements[0].text
        assert re.findall("[a-z]+-secret", repr(reading)) == [secret] * 2


def test_what_is_shaped_like_a_secret_is_hidden_in_every_text(shop: Catalogue) -> None:
    cache = ReadingCache(read)
    session = SessionView(shop.search_path)
    for value in ("a", "b", "ada@corp.example", "c", "4111 1111 1111 1111", "512-44-8821", "d"):
        text = f"update customers set city = '{value}' where id = 7"
        reading, _ = cache.read(text, shop, session)
        assert reading.sensitive == (len(value) > 1)
        assert (value in reading.shown) == (len(value) == 1)
    found = cache.find("update customers set city = 'grace@corp.example' where id = 4111111", shop, session)
    assert found is not None
    assert found.reading.sensitive
    assert "grace" not in found.shown


def test_a_value_that_makes_a_text_costly_to_scan_has_it_read_in_full(shop: Catalogue) -> None:
    served = Served(shop)
    for value in ("a", "b", "c", "+" * 5_000, "d", "+-" * 20_000, "e", "x" * 5_000, "f"):
        served.hold(f"select name from customers where city = '{value}'")
    assert served.by_template


@given(
    st.text(st.sampled_from("a_.$' \\-(),;=<1é"), max_size=12),
    st.text(st.sampled_from("a_.$' \\-(),;=<1é"), max_size=12),
    st.from_regex(r"[0-9]{1,9}", fullmatch=True),
    st.from_regex(r"[0-9]{1,9}", fullmatch=True),
)
@settings(max_examples=2_000)
def test_a_text_with_another_number_between_the_same_is_cut_alike(before: str, behind: str, one: str, other: str) -> None:
    around = around_number(before + one + behind)
    parts = cut(before + other + behind)
    if around == (before, behind):
        alike = cut(before + one + behind)
        assert parts is not None
        assert alike is not None
        assert parts.skeleton == alike.skeleton
        assert parts.literals == (other,)
