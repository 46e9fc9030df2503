"""IDX files: values as written, and a clear one-line error for each invalid file."""

import gzip
import struct

import numpy as np
import pytest

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.idx import find_idx, read_idx


@pytest.mark.parametrize("zipped", [False, True])
def test_values_are_those_written(tmp_path, write_idx, zipped):
    values = np.random.default_rng(0).integers(0, 256, (7, 3, 5), dtype=np.uint8)
    path = write_idx(tmp_path / "values", values)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_idx(DataFiles(path.parent), path.name, (None, 3, 5)).numpy(), values)


def test_the_format_to_the_letter(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(bytes.fromhex("00 00 08 01  00 00 00 03  05 00 ff"))
    assert read_idx(DataFiles(path.parent), path.name, (3,)).tolist() == [5, 0, 255]


def test_unpacked_is_preferred_and_zipped_found(tmp_path, write_idx):
    with pytest.raises(UsageError, match=r"neither a nor a\.gz"):
        find_idx(DataFiles(tmp_path), "a")
    write_idx(tmp_path / "a.gz", np.zeros(1, np.uint8))
    assert find_idx(DataFiles(tmp_path), "a") == "a.gz"
    write_idx(tmp_path / "a", np.zeros(1, np.uint8))
    assert find_idx(DataFiles(tmp_path), "a") == "a"


GOOD = bytes.fromhex("00 00 08 02 00 00 00 02 00 00 00 03") + bytes(range(6))
ZIPPED = gzip.compress(GOOD, mtime=0)
FOREIGN_OR_DAMAGED = {
    "empty": (b"", "not an IDX file.*nothing"),
    "two bytes": (b"\x00\x00", "not an IDX file"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "not an IDX file.*89 50 4e 47"),
    "a page": (b"<html>not found</html>", "not an IDX file"),
    "three dimensions": (b"\x00\x00\x08\x03" + GOOD[4:], "3 dimensions; 2 are expected"),
    "one dimension": (b"\x00\x00\x08\x01" + GOOD[4:], "1 dimension; 2 are expected"),
    "float32": (b"\x00\x00\x0d\x02" + GOOD[4:], "type float32; uint8 is expected"),
    "half a header": (GOOD[:9], "cut short within its header"),
    "another size": (GOOD[:4] + struct.pack(">II", 2, 4) + GOOD[12:], "dimensions 2 x 4; expected any x 3"),
    "no example": (GOOD[:4] + struct.pack(">II", 0, 3), "it has no examples"),
    "a value less": (GOOD[:-1], "announces 6 values, only 5 follow"),
    "a value more": (GOOD + b"\x00", "announces 6 values, more follow"),
    "a huge size": (
        GOOD[:4] + struct.pack(">II", 2**32 - 1, 3) + GOOD[12:],
        "announces 12884901885 values, only 6 follow",
    ),
    "zipped, cut short": (ZIPPED[:-9], "gzip file is damaged or cut short"),
    "zipped, a header alone": (ZIPPED[:12], "gzip file is damaged or cut short"),
    "zipped, another checksum": (ZIPPED[:-8] + bytes(8), "gzip file is damaged or cut short"),
    "zipped, other content": (ZIPPED[:10] + b"\xff" * 20, "gzip file is damaged or cut short"),
    "zipped, a value less": (gzip.compress(GOOD[:-1], mtime=0), "announces 6 values, only 5 follow"),
}


@pytest.mark.parametrize(("content", "message"), FOREIGN_OR_DAMAGED.values(), ids=FOREIGN_OR_DAMAGED)
def test_foreign_and_damaged_files_are_errors(tmp_path, content, message):
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        read_idx(DataFiles(path.parent), path.name, (None, 3))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_header_makes_us_ask_for_memory_that_there_is_not(tmp_path):
    path = tmp_path / "some-file"
    path.write_bytes(b"\x00\x00\x08\x04" + struct.pack(">IIII", *[2**32 - 1] * 2, 2**30, 3) + bytes(9))
    with pytest.raises(UsageError, match="only 9 follow"):
        read_idx(DataFiles(path.parent), path.name, (None, None, None, 3))


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(UsageError, match="this is a folder; a regular file is expected"):
        read_idx(DataFiles(tmp_path.parent), tmp_path.name, (None,))
