"""Where secrets live, and answering challenges with them."""
