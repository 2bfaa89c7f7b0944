"""Our certificate authority and the TLS layer of a leg."""
