"""A made-up protocol with two streams on one connection, to show that the words are not one protocol's alone."""
