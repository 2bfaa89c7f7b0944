"""Catching connections: what needs root, done once and left behind in the kernel."""
