"""What the control process says: see appliance/log.py. Facts carry no secret and no text of a command."""

from __future__ import annotations

from appliance.log import Level, Log

__all__ = ["Level", "log"]

log = Log("control")
