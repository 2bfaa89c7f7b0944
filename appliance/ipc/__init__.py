"""Typed messages between our own processes."""
