"""The grammar's tree, without the checks that its nodes come with."""

from __future__ import annotations

import subprocess
import sys

from appliance.sql.tree import parse
from tests.sql.test_ordinary_sql import ORDINARY

# In a process of its own, where nobody has taken the checks away.
CHECKED = """
import sys
from pglast import parse_sql
for line in sys.stdin.read().splitlines():
    print(ascii(parse_sql(line)))
"""


def test_trees_are_what_they_are_with_every_check() -> None:
    checked = subprocess.run(
        [sys.executable, "-c", CHECKED], input="\n".join(ORDINARY), capture_output=True, text=True, check=True, timeout=60
    )
    found = [
        ascii(parse(text)).replace("boolval=1", "boolval=True").replace("boolval=0", "boolval=False") for text in ORDINARY
    ]
    assert found == checked.stdout.splitlines()
