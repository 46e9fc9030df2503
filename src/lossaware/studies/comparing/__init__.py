"""A comparison from beginning to end: it is checked, carried out and reported."""
