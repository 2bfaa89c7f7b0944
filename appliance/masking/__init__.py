"""Hiding values: detectors, masks and mask streams."""
