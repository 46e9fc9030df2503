"""What tests of studies share: the real data sets, where the environment says that they lie."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the paper's data sets in their official layouts; tests that need it skip without."""
    named = os.environ.get("LOSSAWARE_DATA")
    if not named:
        pytest.skip("needs the paper's data sets: LOSSAWARE_DATA names no folder")
    folder = Path(named)
    assert folder.is_dir(), f"LOSSAWARE_DATA names {folder}, which is no folder"
    return folder
