"""Hiding values: detectors and masks."""
