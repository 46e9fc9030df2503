"""CIFAR's binary records: values as written, invalid files, and the published statistics."""

import numpy as np
import pytest
import torch

from lossaware.errors import UsageError
from lossaware.studies.data import cifar
from lossaware.studies.data.cifar import read_cifar
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.images import standardised


def record(labels, red, green, blue):
    return bytes(labels) + bytes([red]) * 1024 + bytes([green]) * 1024 + bytes([blue]) * 1024


def test_the_format_to_the_letter(tmp_path):
    """The label, then 1,024 red, 1,024 green and 1,024 blue bytes, row by row."""
    path = tmp_path / "batch.bin"
    rows = bytes(index % 256 for index in range(1024))
    path.write_bytes(record([9], 1, 2, 3) + bytes([0]) + rows + rows[::-1] + bytes(1024))
    images, labels = read_cifar(DataFiles(path.parent), path.name, (10,), 2)
    assert (images.shape, images.dtype, labels.dtype) == ((2, 3, 32, 32), torch.uint8, torch.int64)
    assert labels.tolist() == [9, 0]
    assert [images[0, channel].unique().tolist() for channel in range(3)] == [[1], [2], [3]]
    assert images[1, 0, 1].tolist() == list(range(32, 64))
    assert images[1, 1, 0, :3].tolist() == [255, 254, 253]


def test_the_fine_label_of_two_counts(tmp_path):
    path = tmp_path / "train.bin"
    path.write_bytes(record([19, 99], 0, 0, 0) + record([0, 5], 7, 7, 7))
    images, labels = read_cifar(DataFiles(path.parent), path.name, (20, 100), 2)
    assert labels.tolist() == [99, 5]
    assert images[1].unique().tolist() == [7]


ONE = record([3], 1, 1, 1)


@pytest.mark.parametrize(
    ("content", "classes", "message"),
    [
        ((ONE * 2)[:-1], (10,), "6145 bytes; 2 records of 3073 bytes are 6146; cut short"),
        (ONE, (10,), "3073 bytes; .*cut short"),
        (b"", (10,), "0 bytes"),
        (ONE * 2 + b"\0", (10,), "6147 bytes; 2 records of 3073 bytes are 6146$"),
        (ONE * 2, (20, 100), "6146 bytes; 2 records of 3074 bytes are 6148"),
        (ONE + record([10], 0, 0, 0), (10,), "record 1 has label 10; labels are 0 to 9"),
        (record([0, 1], 0, 0, 0) + record([0, 100], 0, 0, 0), (20, 100), "record 1 has label 100; labels are 0 to 99"),
        (record([20, 1], 0, 0, 0) * 2, (20, 100), "record 0 has label 20; labels are 0 to 19"),
    ],
)
def test_foreign_and_damaged_files_are_errors(tmp_path, content, classes, message):
    path = tmp_path / "some-file.bin"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        read_cifar(DataFiles(path.parent), path.name, classes, 2)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        read_cifar(DataFiles(tmp_path), "nothing", (10,), 2)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"folder: this is a folder; a regular file is expected"):
        read_cifar(DataFiles(tmp_path), "folder", (10,), 2)


def test_five_batches_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "BATCH_10", 2)
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(record([number], number, 0, 0) * 2)
    (tmp_path / "test_batch.bin").write_bytes(record([0], 9, 9, 9) * 2)
    (images, labels), (test, _) = cifar.read_cifar10(DataFiles(tmp_path))
    assert labels.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert torch.equal(images[:, 0, 0, 0].long(), labels)
    assert test.unique().tolist() == [9]


@pytest.mark.parametrize(
    ("read", "place", "classes", "mean", "std", "exact"),
    [
        (cifar.read_cifar10, cifar.PLACE_10, 10, cifar.MEAN_10, cifar.STD_10, (0.491400, 0.482158, 0.446531)),
        (cifar.read_cifar100, cifar.PLACE_100, 100, cifar.MEAN_100, cifar.STD_100, (0.507075, 0.486549, 0.440918)),
    ],
)  # fmt: skip
def test_the_real_sets_have_the_published_classes_and_statistics(data_folder, read, place, classes, mean, std, exact):
    (images, labels), (test_images, test_labels) = read(DataFiles(data_folder / place, place))
    assert (len(images), len(test_images)) == (50_000, 10_000)
    assert torch.bincount(labels).tolist() == [50_000 // classes] * classes
    assert torch.bincount(test_labels).tolist() == [10_000 // classes] * classes
    channels = images.numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    result = np.array([channel.mean(dtype=np.float64) for channel in channels]) / 255
    np.testing.assert_allclose(result, exact, atol=2e-4)  # one of the copies is a JPEG of the original
    np.testing.assert_allclose(result, mean, atol=3e-4)
    sample = standardised(images[::7], mean, std)
    assert torch.allclose(sample.mean(dim=(0, 2, 3)), torch.zeros(3), atol=0.01)
    assert torch.allclose(sample.std(dim=(0, 2, 3)), torch.ones(3), atol=0.01)
