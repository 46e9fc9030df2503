"""Fixtures for studies, such as the real data sets in the folder that an environment variable names."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lossaware.studies.data import cifar
from lossaware.studies.data.checksums import record_files
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.sets import DATA_SETS
from lossaware.studies.data.stand_in import make_stand_in
from lossaware.studies.specs.study import Study, parse_study
from support.small_grid import TEXT


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the paper's data sets in their official layouts; tests that need it skip without."""
    path = os.environ.get("LOSSAWARE_DATA")
    if not path:
        pytest.skip("needs the paper's data sets: LOSSAWARE_DATA names no folder")
    folder = Path(path)
    assert folder.is_dir(), f"LOSSAWARE_DATA names {folder}, which is no folder"
    return folder


@pytest.fixture
def example_data(tmp_path, tiny_mnist, monkeypatch):
    """A data folder with a handful of examples of every set, in the official layouts."""
    folder = tiny_mnist
    generator = np.random.default_rng(0)
    for name, count in (("BATCH_10", 4), ("TRAIN_100", 8), ("TEST_100", 4)):
        monkeypatch.setattr(cifar, name, count)

    def records(path, classes, count):
        path.parent.mkdir(exist_ok=True)
        labels = [generator.integers(0, most, (count, 1), dtype=np.uint8) for most in classes]
        np.hstack([*labels, generator.integers(0, 256, (count, 3072), dtype=np.uint8)]).tofile(path)

    for number in range(1, 6):
        records(folder / "cifar-10-batches-bin" / f"data_batch_{number}.bin", (10,), 4)
    records(folder / "cifar-10-batches-bin" / "test_batch.bin", (10,), 4)
    records(folder / "cifar-100-binary" / "train.bin", (20, 100), 8)
    records(folder / "cifar-100-binary" / "test.bin", (20, 100), 4)

    def picture(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    tiny = folder / "tiny-imagenet-200"
    for label in range(200):
        picture(tiny / "train" / f"n{label:03}" / "images" / f"n{label:03}_0.JPEG", np.full((64, 64, 3), label))
    picture(tiny / "val" / "images" / "val_0.JPEG", np.full((64, 64), 3))
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn003\t0\t0\t63\t63\n")
    (tiny / "wnids.txt").write_text("".join(f"n{label:03}\n" for label in range(200)))

    for number in range(5):
        picture(folder / "bag_data" / "last" / f"{number}.png", generator.integers(0, 256, (64, 64, 3)))
        mask = np.full((64, 64), 255)
        mask[10:30, 10 : 20 + number] = 0
        picture(folder / "bag_data" / "last_msk" / f"{number}.png", mask)

    (folder / "tacos").mkdir()
    for index, part in enumerate(("train", "val", "test")):
        video = {"timestamps": [[0, 700], [800, 1300]], "sentences": ["He cuts.", "She eats it"], "fps": 29.4}
        (folder / "tacos" / f"{part}.json").write_text(json.dumps({f"s{index}.avi": {**video, "num_frames": 2000}}))
    make_stand_in(DataFiles(folder / "tacos"), folder / "tacos" / "stand-in-features")
    record_files(DATA_SETS["tacos"], folder)
    return folder


@pytest.fixture
def grid() -> Study:
    return parse_study(TEXT, "grid")
