"""Make any optimizer loss-aware."""
