"""What a statement does, read with the server's own grammar."""
