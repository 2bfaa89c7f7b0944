"""The product with one more protocol in its table, and nothing else changed."""

from __future__ import annotations

from appliance.__main__ import inspectors, run
from tests.two_streams.inspector import TwoStreamsInspector

if __name__ == "__main__":
    run({**inspectors(), "two-streams": lambda _facts: TwoStreamsInspector()}, "tests.two_streams")
