"""The paper's tables (as study files), figures and theory."""
