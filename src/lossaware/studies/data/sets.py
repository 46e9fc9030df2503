"""The data sets that tasks read: folder, source and published checksums."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        url: Its address.
        size: Its size in bytes. A larger download is stopped.
        md5: MD5 of its bytes, 32 hexadecimal digits.
        content_md5: For a ``.gz``: MD5 of the content, which identifies a recompressed or unpacked copy.
    """

    url: str
    size: int
    md5: str
    content_md5: str | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        summary: One line for lists.
        place: The folder that tasks read, relative to the user's data folder.
        reads: The files of ``place`` that tasks read, as glob patterns.
        files: The downloads: one archive that contains the last part of ``place``, or the files of ``place``.
        source: How to get data that cannot be downloaded.
        sha256: SHA-256 of files that cannot be downloaded, by name.
        parts: Other folders that tasks read, with the patterns of their files.
    """

    summary: str
    place: str
    reads: tuple[str, ...]
    files: tuple[Remote, ...] = ()
    source: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_archive(self) -> bool:
        """Whether the download is one archive."""
        return len(self.files) == 1 and self.files[0].name.endswith((".tar.gz", ".zip"))

    @property
    def megabytes(self) -> int:
        """Size of the download in megabytes."""
        return round(sum(remote.size for remote in self.files) / 1e6)

    @property
    def places(self) -> Mapping[str, tuple[str, ...]]:
        """All folders that tasks read, with the patterns of their files."""
        return {self.place: self.reads, **self.parts}


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
DATA_SETS = {
    "mnist": DataSet(
        "Handwritten digits, 70,000 images of 28 x 28",
        "MNIST/raw",
        ("*-ubyte", "*-ubyte.gz"),
        (
            Remote(
                f"{_MNIST}train-images-idx3-ubyte.gz",
                9_912_422,
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "6bbc9ace898e44ae57da46a324031adb",
            ),
            Remote(
                f"{_MNIST}train-labels-idx1-ubyte.gz",
                28_881,
                "d53e105ee54ea40749a09fcbcd1e9432",
                "a25bea736e30d166cdddb491f175f624",
            ),
            Remote(
                f"{_MNIST}t10k-images-idx3-ubyte.gz",
                1_648_877,
                "9fb629c4189551a2d022fa330f9573f3",
                "2646ac647ad5339dbf082846283269ea",
            ),
            Remote(
                f"{_MNIST}t10k-labels-idx1-ubyte.gz",
                4_542,
                "ec29112dd5afa0611ce80d1b7f02629c",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
    ),
    "cifar10": DataSet(
        "Photographs of 10 classes, 60,000 of 32 x 32 (binary version)",
        "cifar-10-batches-bin",
        ("data_batch_*.bin", "test_batch.bin"),
        (Remote(f"{_CIFAR}cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
    "cifar100": DataSet(
        "Photographs of 100 classes, 60,000 of 32 x 32 (binary version)",
        "cifar-100-binary",
        ("train.bin", "test.bin"),
        (Remote(f"{_CIFAR}cifar-100-binary.tar.gz", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),),
    ),
    "tinyimagenet": DataSet(
        "Photographs of 200 classes, 120,000 of 64 x 64",
        "tiny-imagenet-200",
        ("wnids.txt", "train/*/images/*.JPEG", "val/val_annotations.txt", "val/images/*"),
        (Remote("https://cs231n.stanford.edu/tiny-imagenet-200.zip", 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"),),
    ),
    "segmentation": DataSet(
        "Photographs of bags in last/, masks in last_msk/",
        "bag_data",
        ("last/*", "last_msk/*"),
        source=(
            "photographs in last/ and masks with the same names in last_msk/, of the set of "
            "https://github.com/kenandaoerdect/Image-segmentation-using-pytorch"
        ),
    ),
    "tacos": DataSet(
        "Sentences on cooking videos, with their time spans",
        "tacos",
        ("train.json", "val.json", "test.json"),
        source="train.json, val.json, test.json as https://github.com/26hzhang/VSLNet has them",
        # There are no published checksums. These were computed from a byte copy of data/dataset/tacos in VSLNet's
        # repository, commit 9256b81287e68fcb615b36ae37fcf52ed34312ba.
        sha256={
            "train.json": "ee5e1527885122f0d3cf1dbfcf0efb0de0c54f8290937fe3ff8b5844742112e9",
            "val.json": "f8f350e5727e8c0ab3ca2a5d4df93027dcd0546aebe8e2087ae220c850db59fe",
            "test.json": "1c64c8a5ada2b812ee7e230d1577139c5ee8e1e5d9ae2141479c980a0c3fb847",
        },
        parts={"tacos/features": ("*.npy",), "tacos/stand-in-features": ("*.npy",)},
    ),
}
"""The data sets by name, for `lossaware data`. To add a data set, add an entry here."""
