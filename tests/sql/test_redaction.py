"""What a person may see of a statement and of a bound value."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.sql import redaction
from appliance.sql.redaction import HIDDEN, redact, redact_text

CARD = "4111111111111111"
EMAIL = "ada.quill@corp.example"
SSN = "512-44-8821"


@pytest.mark.parametrize(
    "text",
    [
        f"select '{CARD}'",
        "select '4111 1111 1111 1111'",
        "select '4111-1111-1111-1111'",
        f"select {CARD}",
        f"select -{CARD}",
        f"select {CARD}.00",
        f"select {CARD}::bigint, 'é'",
        f"select 'é', 'ß😀', '{CARD}'",
        f"insert into c values (1, E'{CARD}\\n')",
        "select E'\\x34111111111111111'",
        "select E'\\064111111111111111'",
        "select E'\\u0034111111111111111'",
        "select e'4111\\u0031\\U000000311111111111'",
        "select U&'\\0034111111111111111'",
        "select U&'!0034111111111111111' UESCAPE '!'",
        "select U&'!+000034111111111111111' /* a */ UESCAPE '!'",
        f"select $$ {CARD} $$",
        f"do $body$ begin perform '{CARD}'; end $body$",
        "select '41111111'\n '11111111'",
        "select 4_111_111_111_111_111",
        "select 0xe9b08a568f1c7",
        "select 4.111111111111111e15",
        f"select 0x{CARD}",
        f"select 0o{CARD}",
        f"select 0x{CARD}beef",
        "select x'34313131313131313131313131313131'",
        "select x'e9b08a568f1c7'",
        "select '\\x34313131313131313131313131313131'::bytea",
        f"select 1 -- card {CARD}",
        f"select /* {CARD} */ 1",
        f"select /* a /* {CARD} */ b */ 1",
        f'select "{CARD}"',
        f'select a as "card {CARD}"',
        'select U&"\\0034111111111111111"',
        f"select 'open {CARD}",
        f"selec$ '{CARD}' $$",
        f"select 1\0 '{CARD}'",
        f"\ud800 select '{CARD}'",
        "select 4111 1111 1111 1111",
    ],
)
def test_card_numbers_are_hidden_however_they_are_written(text: str) -> None:
    for hide in (False, True):
        shown = redact(text, hide)
        assert shown != text
        digits = "".join(letter for letter in shown if letter.isdigit())
        assert "1111111111" not in digits
        assert "313131" not in digits
        assert "e9b08a568f1c7" not in shown


@pytest.mark.parametrize(
    "text",
    [
        f"select * from customers where email = '{EMAIL}'",
        f"select $x${EMAIL}$x$",
        "select E'ada.quill\\x40corp.example'",
        "select E'ada.quill\\100corp.example'",
        "select U&'ada.quill\\0040corp.example'",
        "select 'ada.quill@corp'\n'.example'",
        f"-- {EMAIL}\nselect 1",
        f'select "{EMAIL}"',
        f"select '{EMAIL}",
        f"select 'o''hara {EMAIL}'",
    ],
)
def test_addresses_are_hidden_however_they_are_written(text: str) -> None:
    for hide in (False, True):
        shown = redact(text, hide)
        assert "corp" not in shown or "quill" not in shown


@pytest.mark.parametrize(
    "text", [f"select '{SSN}'", f"/* {SSN} */ select 1", f"select 'x {SSN} y", "select E'512\\x2d44-8821'"]
)
def test_social_security_numbers_are_hidden(text: str) -> None:
    for hide in (False, True):
        assert "8821" not in redact(text, hide)


@pytest.mark.parametrize(
    "text",
    [
        "select id, name from customers where id = 5 and status in ('open', 'closed') -- plain",
        "insert into products values (2, 'BX-2', '1234567890123456', 19)",
        "select 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
        "select '2024-01-01 10:11:12.123456+00'::timestamptz, 1e10, 0x1f, b'101', x'ff', $1, $q$ text $q$",
        'select "Odd ""name""" from "t;--"',
        "select E'\\n', U&'d\\0061ta', 'it''s'",
        "select '𝒳é' as \"ü\"",
        "",
        "  \n",
        ";;",
        "select 1; select 2",
        "this is ( not SQL",
        "select 'unterminated",
    ],
)
def test_a_text_without_sensitive_values_is_shown_as_it_is(text: str) -> None:
    assert redact(text, hide_literals=False) == text


def test_with_literals_hidden_only_the_structure_is_left() -> None:
    text = (
        "alter role bob password 'hunter2' valid until $$never$$; -- hunter2\n"
        "select 42, 1.5, E'hunter2', U&'hunter2', b'10', x'ff', N'hunter2', a.b from \"t\" /* hunter2 */ where c = $1"
    )
    shown = redact(text, hide_literals=True)
    assert "hunter2" not in shown
    assert "never" not in shown
    for digits in ("42", "1.5", "10", "ff"):
        assert digits not in shown
    assert shown.startswith(
        f"alter role bob password '{HIDDEN}' valid until '{HIDDEN}'; -- {HIDDEN}\nselect {HIDDEN}, {HIDDEN}, "
    )
    assert shown.endswith(f'a.b from "t" /* {HIDDEN} */ where c = $1')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alter role bob password 'hunter2", f"alter {HIDDEN}"),
        ("  update x set p = $a$hunter2", f"update {HIDDEN}"),
        ("'hunter2", HIDDEN),
        ("hunter2 'x", HIDDEN),
        ("select 'a'\0hunter2", f"select {HIDDEN}"),
        ("\ud800hunter2", HIDDEN),
        ("/* hunter2", HIDDEN),
        ("averyveryveryveryverylongword 'x", HIDDEN),
    ],
)
def test_what_does_not_lex_keeps_its_first_word_only(text: str, shown: str) -> None:
    assert redact(text, hide_literals=True) == shown


@pytest.mark.parametrize(
    "value",
    [
        CARD,
        "card 4111 1111 1111 1111!",
        f'{{"n": "{CARD}"}}',
        "\\x34313131313131313131313131313131",
        f"{{{CARD},5}}",
    ],
)
def test_bound_values_hide_cards(value: str) -> None:
    shown = redact_text(value)
    assert shown != value
    assert "11111111" not in shown.replace(" ", "")
    assert "313131" not in shown


@pytest.mark.parametrize("value", ["", "5", "open", "2024-01-01", "1234567890123456", "\\x00ff", "ünïcödé", "NULL"])
def test_plain_bound_values_are_shown(value: str) -> None:
    assert redact_text(value) == value


SECRETS = st.sampled_from([CARD, "4111-1111-1111-1111", "5555 5555 5555 4444", EMAIL, SSN])
PIECES = st.one_of(
    st.sampled_from(
        [
            "select ",
            "'",
            '"',
            "$$",
            "$a$",
            "E'",
            "U&'",
            "\\",
            "--",
            "\n",
            "/*",
            "*/",
            ";",
            "0x",
            "1e9",
            "b'",
            "x'",
            "\0",
            " ",
            "''",
        ]
    ),
    st.text(max_size=8),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join), st.booleans())
def test_any_text_is_shown_as_some_text(text: str, hide: bool) -> None:
    redact(text, hide).encode()
    redact_text(text).encode()


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join), SECRETS, st.lists(PIECES, max_size=8).map("".join))
def test_with_literals_hidden_no_secret_between_spaces_gets_through(before: str, secret: str, after: str) -> None:
    """Wherever it stands in whatever text: in a literal, a comment, an identifier, or in nothing that can be read."""
    assert secret not in redact(f"{before} {secret} {after}", hide_literals=True)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30))
def test_no_literal_survives_hiding(value: str) -> None:
    quoted = value.replace("'", "''")
    shown = redact(f"select '{quoted}' as a, $tag$z{value.replace('$', '')}z$tag$", hide_literals=True)
    assert shown == f"select '{HIDDEN}' as a, '{HIDDEN}'"


SHARDS = st.sampled_from(
    [
        "4111",
        "1111",
        "11111111",
        "41111111",
        "x41",
        "ada",
        "@",
        "corp.example",
        "512",
        "-",
        "44",
        "8821",
        "_",
        ".",
        "e",
        "E",
        "U",
        "&",
    ]
)


@settings(max_examples=1_500, deadline=None)
@given(st.lists(st.one_of(PIECES, SECRETS, SHARDS), max_size=14).map("".join))
def test_a_text_that_is_looked_at_as_a_whole_is_shown_as_if_each_token_was(text: str) -> None:
    shown = redact(text, hide_literals=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(redaction, "_is_innocent", lambda _: False)
        assert redact(text, hide_literals=False) == shown


def test_a_huge_text_is_shown_in_time() -> None:
    """Numbers, escapes and nesting of any size cost no more than their length."""
    for text in (
        "select " + "9" * 200_000,
        "select 0x" + "f" * 200_000,
        "select 1e999999999",
        "select 1." + "1" * 100_000 + "e-9999",
        "select x'" + "0f" * 100_000 + "'",
        "select b'" + "01" * 100_000 + "'",
        "select E'" + "\\x41" * 50_000 + "'",
        "select '" + "''" * 100_000 + "'",
        "select " + "/*" * 50_000 + "*/" * 50_000 + " 1",
        "select '" + "\\x41" * 50_000 + "'",
        "select " + "'a'\n" * 20_000,
        "select 1 " + "+" * 100_000 + " 1",
    ):
        began = time.process_time()
        redact(text, hide_literals=False)
        redact(text, hide_literals=True)
        assert time.process_time() - began < 5, text[:20]
