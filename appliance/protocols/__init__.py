"""Bytes and their meaning, one room for each protocol, none of them doing I/O."""
