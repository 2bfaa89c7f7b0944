"""Rules: reading them and deciding by them."""
