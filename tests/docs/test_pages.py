"""The documentation against the code it speaks of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from appliance.configuration import configuration_schema
from ui.settings_page import page

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def test_the_settings_page_is_what_the_schema_says() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), "python -m ui.settings_page > docs/settings.md"


def test_the_settings_page_shows_a_configuration_that_reads() -> None:
    example = re.search(r"```yaml\n(.*?)```", page(), re.DOTALL)
    assert example is not None
    assert list(Draft202012Validator(configuration_schema()).iter_errors(yaml.safe_load(example[1]))) == []


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(file: Path) -> None:
    missing = [link for link in LINK.findall(file.read_text()) if not (file.parent / link).exists()]
    assert missing == []
