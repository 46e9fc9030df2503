"""One run: from a specification and its data to a record per epoch."""
