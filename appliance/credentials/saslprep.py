"""How a password is brought into the form that SCRAM hashes: SASLprep (RFC 4013) as PostgreSQL applies it.

PostgreSQL leaves a password that is plain ASCII, is not UTF-8, or breaks SASLprep's rules exactly as it is
(src/common/saslprep.c, "we fall back to the raw password"), so we do the same: both ends must hash the same bytes.
"""

from __future__ import annotations

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,  # unassigned in Unicode 3.2: PostgreSQL refuses them too, as for stored strings
)


def prepared(password: bytes) -> bytes:
    """The bytes that PBKDF2 is fed with for that password."""
    if password.isascii():
        return password
    try:
        text = password.decode("utf-8")
    except UnicodeDecodeError:
        return password
    mapped = "".join(" " if stringprep.in_table_c12(one) else one for one in text if not stringprep.in_table_b1(one))
    # The profile names Unicode 3.2; PostgreSQL normalises with its current tables, and so does the server we talk to.
    normal = unicodedata.normalize("NFKC", mapped)
    if not normal or any(table(one) for one in normal for table in _PROHIBITED) or not _is_bidirectionally_sound(normal):
        return password
    return normal.encode("utf-8")


def _is_bidirectionally_sound(text: str) -> bool:
    """RFC 3454 section 6."""
    if not any(stringprep.in_table_d1(one) for one in text):
        return True
    if any(stringprep.in_table_d2(one) for one in text):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
