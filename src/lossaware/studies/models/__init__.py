"""Networks that the installed libraries do not have."""
