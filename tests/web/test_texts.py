"""Texts of others on a page: each is read as what it is, and none of it is ever markup."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from ui.web import texts
from ui.web.differences import WORDS_MAX, differences
from ui.web.house import templates

TAG = re.compile(r"<(/?)(span|time)( [^<>]*)?>")


def bare(markup: str) -> str:
    """The text of a markup that is made of spans alone. Fails where there is any other tag."""
    text = TAG.sub("", markup)
    assert "<" not in text
    assert ">" not in text
    return str(Markup(text).unescape())


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("a\u202eb", "U+202E"),
        ("a\u2066b", "U+2066"),
        ("a\u200bb", "U+200B"),
        ("a\u00adb", "U+00AD"),
        ("a\ufeffb", "U+FEFF"),
        ("a\x1b[31mb", "U+001B"),
        ("a\x00b", "U+0000"),
        ("a\rb", "U+000D"),
        ("a\u00a0b", "U+00A0"),
        ("a\u3164b", "U+3164"),
        ("a\u2028b", "U+2028"),
        ("a\ufe0fb", "U+FE0F"),
        ("a\ud800b", "U+D800"),
        ("a\U000e0041b", "U+E0041"),
    ],
)
def test_what_cannot_be_seen_is_shown_by_its_number(text: str, number: str) -> None:
    assert number in bare(texts.visible(text))
    assert number in bare(texts.statement(f"select '{text}'"))
    assert text not in texts.visible(text)


def test_a_letter_of_another_alphabet_in_a_name_is_marked() -> None:
    shown = texts.statement("select * from p\u0430yroll where city = 'Z\u00fcrich'")
    assert '<span class="foreign" title="U+0430 CYRILLIC SMALL LETTER A">\u0430</span>' in shown
    assert "Z\u00fcrich" in shown, "a value may be in any language"


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("select 1 --\rdelete from x", "delete"),
        ("select 2*/* ' */ (delete from x) /* ' */", "delete"),
        ("select E'a\\'', delete --'", "delete"),
        ("select 1 as a$, b$ from t; delete from u; select 1 as a$, b$", "delete"),
        ("select 1 -- a\ndelete from x", "delete"),
    ],
)
def test_what_runs_is_coloured_neither_as_a_comment_nor_as_a_string(text: str, runs: str) -> None:
    for shown in (texts.statement(text), texts.one_line(text)):
        assert f'<span class="q-keyword">{runs}</span>' in shown


@pytest.mark.parametrize("text", ["select 1 -- a\ndelete from x", "del a'b\nset c"])
def test_a_line_that_ends_a_comment_is_seen_to_end_on_one_line(text: str) -> None:
    assert "↵" in bare(texts.one_line(text))
    assert "↵" not in bare(texts.one_line("select 1\nfrom x"))


def test_a_mark_that_is_drawn_over_letters_is_shown_by_its_number() -> None:
    assert bare(texts.statement("select 'a\u0336b'")) == "select 'aU+0336b'"
    assert bare(texts.visible("a" + "\u0301" * 3)) == "a" + "\u0301" * 3
    assert bare(texts.visible("a" + "\u0301" * 9)).endswith("U+0301 ×6")


@pytest.mark.parametrize("text", ["a\uff1db", "select 'a' \u037e", "\u0430" + " " * texts.COLOURED_CHARACTERS_MAX])
def test_what_passes_for_a_sign_outside_strings_is_marked_whatever_the_scanner_makes_of_it(text: str) -> None:
    assert 'class="foreign"' in texts.statement(text)


def test_a_hidden_value_is_seen_to_be_hidden() -> None:
    for text in ("select ••• from x", "select '•••'", "-- •••"):
        assert texts.statement(text).count('class="hidden-value"') == 1, text


@given(st.text(max_size=200))
def test_any_text_stays_text(text: str) -> None:
    for shown in (texts.visible(text), texts.statement(text), texts.one_line(text), texts.yaml(text)):
        bare(shown)


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=200))
def test_a_printable_statement_is_shown_letter_by_letter(text: str) -> None:
    assert bare(texts.statement(text)) == text


def test_a_template_makes_every_text_visible_by_itself() -> None:
    page = templates().from_string("<p>{{ text }}</p>").render(text="<b>\u202e")
    assert page == '<p>&lt;b&gt;<span class="unseen" title="U+202E RIGHT-TO-LEFT OVERRIDE">U+202E</span></p>'


def test_no_tooltip_hides_anything() -> None:
    page = templates().get_template("effects.html").render(found=['drop table a\u202eb\u200b<"'])
    assert "\u202e" not in page
    assert 'title="drop table a[U+202E]b[U+200B]&lt;&#34;"' in page


def test_no_template_puts_an_unescaped_text_into_an_attribute() -> None:
    environment = templates()
    fine = re.compile(
        r"\|\s*(e|urlencode|int|count)\b|^\s*(static\(|loop\.index|event\.number|now\b|next\b|name\s*$|effect\.level|waiting)"
    )
    for name in environment.list_templates():
        assert environment.loader is not None
        source, _, _ = environment.loader.get_source(environment, name)
        for value in re.findall(r'[a-z-]+="([^"]*\{\{[^"]*)"', re.sub(r"\{%.*?%\}", "", source)):
            for expression in re.findall(r"\{\{(.*?)\}\}", value):
                assert fine.search(expression) or '"' in expression, (name, expression)
        assert "safe" not in re.findall(r"\|\s*(\w+)", source), name


def test_long_statements_take_no_long_time_and_none_is_cut_in_silence() -> None:
    for text in ("(" * 500_000, "a " * 300_000, "'" * 100_001, "/*" * 50_000, "\u0430\u202e" * 200_000):
        began = time.monotonic()
        shown = texts.statement(text)
        assert time.monotonic() - began < 2
        assert len(text) <= texts.SHOWN_CHARACTERS_MAX or "characters more" in shown


@pytest.mark.parametrize(
    ("text", "verb", "name", "fields", "level"),
    [
        ("delete table public.staging", "Deletes from", "public.staging", (), "danger"),
        ("read table public.a (x, y) as compute", "Reads", "public.a", ("x", "y"), "calm"),
        ("update table public.a (x)", "Changes", "public.a", ("x",), "change"),
        ("unknown statement  [reason=not understood]", "Could not be understood:", "", (), "danger"),
    ],
)
def test_an_effect_reads_as_a_sentence(text: str, verb: str, name: str, fields: tuple[str, ...], level: str) -> None:
    found = texts.effect(text)
    assert (found.verb, found.name, found.fields, found.level) == (verb, name, fields, level)


@pytest.mark.parametrize("name", ["a (b)", "a as output", "a) as compare (b", "a [x] y"])
def test_a_name_that_could_pass_for_other_parts_is_shown_as_recorded(name: str) -> None:
    found = texts.effect(f"delete table {name}")
    assert found.name in (f"delete table {name}", name)
    assert not found.use
    assert not found.fields or found.name != name


def test_the_gravest_effect_comes_first() -> None:
    found = texts.effects(["read table a", "insert table b", "drop table c"])
    assert [one.verb for one in found] == ["Drops", "Adds rows to", "Reads"]


@given(st.text(alphabet="ab ,=\n", max_size=60), st.text(alphabet="ab ,=\n", max_size=60))
def test_differences_make_up_both_texts(old: str, new: str) -> None:
    pieces = differences(old, new)
    assert "".join(piece.text for piece in pieces if piece.kind != "in") == old
    assert "".join(piece.text for piece in pieces if piece.kind != "out") == new


def test_only_what_changed_is_a_difference() -> None:
    pieces = differences("delete from a where id > 3", "delete from a where id = 3 and v is null")
    assert [(piece.kind, piece.text.strip()) for piece in pieces if piece.kind != "same"] == [
        ("out", ">"),
        ("in", "="),
        ("in", "and v is null"),
    ]


def test_a_large_change_is_compared_in_bounded_time() -> None:
    old, new = " ".join(["a", "b"] * WORDS_MAX), " ".join(["b", "c"] * WORDS_MAX)
    began = time.monotonic()
    assert len(differences(old, new)) == 2
    small_old, small_new = " ".join(["a", ","] * (WORDS_MAX // 2)), " ".join([",", "b"] * (WORDS_MAX // 2))
    differences(small_old, small_new)
    assert time.monotonic() - began < 2
