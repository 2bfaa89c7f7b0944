"""Redis's serialization protocol, version 2 (RESP2)."""
