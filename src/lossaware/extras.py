"""Commands that install optional dependencies, in one place."""

INSTALL = "pip install -e '.[{extra}]'"
"""The package is not on a registry yet. `tests/test_docs.py` shows the pages that give this command too."""
PLACE = "in a clone of the repository"


def how_to_install(extra: str) -> str:
    """The command that installs an extra of ``pyproject.toml``, and where to run it."""
    return f"{INSTALL.format(extra=extra)} {PLACE}"
