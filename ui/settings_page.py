"""The documentation's page of settings, written from the configuration's schema: `python -m ui.settings_page`.

docs/settings.md is its output; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.configuration import configuration_schema

_INTRODUCTION = """# Settings

One YAML file, `/etc/sluicegate/sluicegate.yaml` unless said otherwise. `sluicegate check` reads it whole and says everything
that is wrong with it: file, line, what was found, what was expected. Relative paths start at the file's own folder. In the
table NAME stands for a name of your own. This page is generated from the schema, which
`sluicegate policy schema --of configuration` prints.

```yaml
agents:
  shop-bot:
    owner: platform@example.com
    groups: [shop-agents]
    phases:
      plan:
        sources: [10.81.1.2, "fd81:1::2"]
      execute:
        sources: [10.81.1.3, "fd81:1::3"]
resources:
  shop:
    protocol: postgres
    addresses: ["10.81.2.2:5432", "[fd81:2::2]:5432"]
    credential: shop-owner
    tls:
      target: verify-full
      authorities: target-authority.pem
credentials:
  shop-owner:
    user: shop_owner
    password:
      file: secrets/shop_owner
networks:
  executors:
    interfaces: [executors0]
policies: [policies/example]
approvers:
  dana:
    groups: [dba]
```

| setting | is | |
|---|---|---|
"""


def page() -> str:
    """The whole page in Markdown."""
    return _INTRODUCTION + "".join(f"{row}\n" for row in _rows(configuration_schema(), ()))


def _rows(schema: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    required = schema.get("required", [])
    for name, inner in schema.get("properties", {}).items():
        here = (*path, name)
        must = "required" if name in required else ""
        yield f"| `{'.'.join(here)}` | {inner.get('description', '')}{_choices(inner)} | {must} |"
        yield from _rows(inner, here)
    named = schema.get("additionalProperties")
    if isinstance(named, Mapping):
        yield from _rows(named, (*path, "NAME"))


def _choices(schema: Mapping[str, Any]) -> str:
    listed = schema.get("enum")
    return f": {', '.join(f'`{choice}`' for choice in listed)}" if listed else ""


if __name__ == "__main__":
    print(page(), end="")
