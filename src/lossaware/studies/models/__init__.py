"""Networks that no library at hand has."""
