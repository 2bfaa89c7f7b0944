"""docs/policy.md is held against the code: its examples must read, and it must speak of every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.masking.masks import KINDS
from appliance.policy.cases import cases_schema, read_cases
from appliance.policy.reading import policy_schema, read_policy
from appliance.sql.analysis import read

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "policy.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_reads(block: str) -> None:
    if block.startswith("rules:"):
        assert read_policy([("docs/policy.md", block)]).rules
    else:
        assert read_cases([("docs/policy.md", block)], read)[0].cases


def test_every_key_is_spoken_of() -> None:
    definitions = policy_schema()["$defs"]
    keys = {
        key for name in ("rule", "who", "where", "matcher", "masking", "mask") for key in definitions[name]["properties"]
    }
    keys |= set(cases_schema()["properties"]["cases"]["items"]["properties"]["expect"]["properties"])
    keys |= {"at_least", "at_most", *KINDS}
    assert not {key for key in keys if f"`{key}`" not in TEXT}
    examples = "\n".join(BLOCKS)
    assert not {key for key in keys - set(KINDS) if not re.search(rf"\b{key}:", examples)}
