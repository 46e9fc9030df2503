"""Where runs execute, and which of them need to."""
