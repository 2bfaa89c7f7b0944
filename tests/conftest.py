"""Fixtures that tests of every room may ask for."""

from __future__ import annotations

from tests.scratch_postgres import scratch_postgres

__all__ = ["scratch_postgres"]
