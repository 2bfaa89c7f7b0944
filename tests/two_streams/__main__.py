"""The product with one more protocol in its table, and nothing else changed."""

from __future__ import annotations

from appliance.__main__ import PROTOCOLS, inspectors, run
from appliance.flow.worker import InspectorMaker
from tests.two_streams.inspector import TwoStreamsInspector


def table() -> dict[str, InspectorMaker]:
    """The product's own table and one more."""
    return {**inspectors(), "two-streams": lambda _facts: TwoStreamsInspector()}


if __name__ == "__main__":
    run(PROTOCOLS | {"two-streams"}, table, "tests.two_streams")
