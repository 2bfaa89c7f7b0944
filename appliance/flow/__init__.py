"""One caught connection, from accept to close."""
