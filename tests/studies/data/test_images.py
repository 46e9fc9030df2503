"""Image files, sets of images in memory, fixed subsets, and the layouts of TinyImageNet and the bags."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lossaware.errors import UsageError
from lossaware.studies.data import bags, tiny_imagenet
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.images import Images, read_image, standardised
from lossaware.studies.data.subset import check_counts, part_of, spread
from lossaware.studies.specs.tasks import load_task
from support.examples import tensors_of


def picture(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **how)
    return path


def read(path, side, *mode, **how):
    return read_image(DataFiles(path.parent), path.name, side, *mode, **how)


# --- files ----------------------------------------------------------------------------------------------------------


def test_pixels_are_those_written(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = read(picture(tmp_path / "a.png", pixels), 5)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 5, 5))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels)


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = np.arange(25).reshape(5, 5)
    image = read(picture(tmp_path / "a.png", grey), 5)
    for channel in image:
        np.testing.assert_array_equal(channel.numpy(), grey)
    assert torch.equal(read(tmp_path / "a.png", 5, "L"), image[:1])


def test_another_size_is_refused_or_resized(tmp_path):
    path = picture(tmp_path / "a.png", np.full((8, 6, 3), 77))
    with pytest.raises(UsageError, match=r"a\.png: 6 x 8 pixels; 4 x 4 are expected"):
        read(path, 4)
    assert read(path, 4, resize=True).unique().tolist() == [77]
    halves = picture(tmp_path / "b.png", np.repeat([[0, 0, 200, 200]], 4, axis=0))
    resized = read(halves, 8, "L", resize=True)[0]
    assert resized[:, 0].tolist() == [0] * 8
    assert resized[:, -1].tolist() == [200] * 8
    assert (resized[3].diff() >= 0).all()


def test_files_that_are_not_images_are_errors(tmp_path):
    whole = picture(tmp_path / "whole.jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    cases = {
        "text.jpg": (b"<html>not found</html>", "this is not an image"),
        "empty.jpg": (b"", "this is not an image"),
        "cut.jpg": (whole.read_bytes()[:900], "damaged or cut short"),
        "missing.jpg": (None, "there is no such file"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=message) as error:
            read(tmp_path / name, 64)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="this is a folder; a regular file is expected"):
        read(tmp_path, 64)


# --- sets -----------------------------------------------------------------------------------------------------------


def test_images_are_standardised_batch_by_batch():
    pixels = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).reshape(2, 2, 1, 1)
    examples = Images((pixels, torch.tensor([4, 5])), mean=(0.2, 0.5), std=(0.1, 0.25))
    ((images, labels),) = examples.batches(2, None)
    torch.testing.assert_close(images.flatten(1), torch.tensor([[-2.0, -1.2], [8.0, -0.4]]))
    assert labels.tolist() == [4, 5]
    assert pixels.flatten().tolist() == [0, 51, 255, 102]
    assert len(examples) == 2


def test_images_keep_to_the_generators_order():
    examples = Images((torch.arange(20, dtype=torch.uint8).reshape(20, 1, 1, 1), torch.arange(20)))
    batches = list(examples.batches(8, torch.Generator().manual_seed(0)))
    assert [len(labels) for _, labels in batches] == [8, 8, 4]
    labels = torch.cat([labels for _, labels in batches])
    assert labels.tolist() == torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    torch.testing.assert_close(torch.cat([images for images, _ in batches]).flatten() * 255, labels.float())


def test_standardised_without_anything_is_from_0_to_1():
    values = standardised(torch.tensor([[[0]], [[255]]], dtype=torch.uint8), (0.0,), (1.0,))
    assert values.flatten().tolist() == [0.0, 1.0]


def test_a_part_is_evenly_spaced_and_always_the_same():
    assert spread(10, 4, "n").tolist() == [0, 2, 5, 7]
    assert spread(3, 3, "n").tolist() == [0, 1, 2]
    assert spread(3, None, "n").tolist() == [0, 1, 2]
    by_class = torch.arange(200).repeat_interleave(50)
    (labels,) = part_of((by_class,), 400, "n")
    assert torch.bincount(labels).tolist() == [2] * 200
    whole = (by_class,)
    assert part_of(whole, None, "n") is whole


def test_a_part_is_at_most_the_whole():
    with pytest.raises(UsageError, match="train_examples must be at most 10, the number of examples, got 11"):
        spread(10, 11, "train_examples")


@pytest.mark.parametrize("count", [0, -1, 2.5, "7", True])
def test_counts_are_whole_numbers(count):
    with pytest.raises(UsageError, match="task 'x': test_examples must be an integer of at least 1, got"):
        check_counts("x", train_examples=None, test_examples=count)


# --- TinyImageNet ---------------------------------------------------------------------------------------------------

WNIDS = [f"n{number:08d}" for number in range(200)]


@pytest.fixture
def tiny(tmp_path):
    """Two training images and one validation image per class, each with one grey value that identifies the class."""
    place = tmp_path / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(WNIDS):
        for number in (10, 2):
            picture(place / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", np.full((64, 64, 3), label + number))
        if label % 2:
            picture(place / "val" / "images" / f"val_{label}.JPEG", np.full((64, 64), label))
            lines.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (place / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    (place / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    return tmp_path


def test_tiny_imagenet_labels_and_order(tiny):
    data = load_task("tinyimagenet").data(tiny)
    images, labels = tensors_of(data.train)
    assert labels.tolist() == [label for label in range(200) for _ in range(2)]
    values = images[:, :, 30, 30].long()
    for first, (value, label) in enumerate(zip(values, labels.tolist(), strict=True)):
        # By number: _2 before _10. JPEG may be off by one.
        assert (value - label - (10 if first % 2 else 2)).abs().max() <= 1
    images, labels = tensors_of(data.test)
    assert labels.tolist() == list(range(199, 0, -2))
    assert (images[:, :, 5, 5].long() - labels[:, None]).abs().max() <= 1


def test_a_part_of_tiny_imagenet_has_every_class(tiny):
    data = load_task("tinyimagenet", {"train_examples": 200, "test_examples": 3}).data(tiny)
    assert tensors_of(data.train)[1].tolist() == list(range(200))
    assert len(data.test) == 3


def test_tiny_imagenet_mistakes_are_errors(tiny):
    place = tiny / "tiny-imagenet-200"
    table = place / "val" / "val_annotations.txt"
    good = table.read_text()
    load = load_task("tinyimagenet", {"train_examples": 1, "test_examples": 1}).data
    for text, message in (
        ("val_1.JPEG\tn999\t0\n", r"val_annotations.txt, line 1: .* class of wnids.txt .* got 'val_1.JPEG\\tn999"),
        ("val_1.JPEG\n", "line 1"),
        (f"../../wnids.txt\t{WNIDS[0]}\n", "line 1"),
        (f"val_0.JPEG\t{WNIDS[0]}\n", r"val_0\.JPEG: there is no such file"),
        ("", "it does not list any images"),
    ):
        table.write_text(text)
        with pytest.raises(UsageError, match=message):
            load(tiny)
    table.write_text(good)
    (place / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_2.JPEG").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"n00000000_2\.JPEG: this is not an image"):
        load(tiny)
    for path in (place / "train" / WNIDS[7] / "images").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=r"no image \(\*\.JPEG\) in .*n00000007"):
        load(tiny)
    (place / "wnids.txt").write_text("\n".join([*WNIDS[:-1], "../../elsewhere"]))
    with pytest.raises(UsageError, match=r"wnids\.txt: '\.\./\.\./elsewhere' is not a WordNet identifier"):
        load(tiny)
    (place / "wnids.txt").write_text("\n".join(WNIDS[:-1]))
    with pytest.raises(UsageError, match="199 different names; 200 are expected"):
        load(tiny)
    (place / "wnids.txt").unlink()
    with pytest.raises(UsageError, match=r"wnids\.txt: there is no such file"):
        load(tiny)


def test_the_real_tiny_imagenet(data_folder):
    files = DataFiles(data_folder / tiny_imagenet.PLACE, tiny_imagenet.PLACE)
    classes = tiny_imagenet.read_classes(files)
    listed = tiny_imagenet.list_train(files, classes)
    assert len(listed) % 200 == 0
    images, labels = tiny_imagenet.read_images(files, listed, 2000, "train_examples")
    assert torch.bincount(labels).tolist() == [10] * 200
    mean, std = (statistic(images.float() / 255, dim=(0, 2, 3)) for statistic in (torch.mean, torch.std))
    np.testing.assert_allclose(mean, tiny_imagenet.MEAN, atol=0.01)
    np.testing.assert_allclose(std, tiny_imagenet.STD, atol=0.01)
    validation = tiny_imagenet.list_validation(files, classes)
    per_class = torch.bincount(torch.tensor([label for _, label in validation]))
    assert per_class.unique().tolist() == [len(validation) // 200]


# --- bags -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bag_folder(tmp_path):
    """Twenty photographs; masks 0 and 1 are equal, and each mask has a square bag of a different size."""
    place = tmp_path / "bag_data"
    for number in range(20):
        picture(place / "last" / f"{number}.png", np.full((224, 224, 3), number))
        mask = np.full((224, 224), 255)
        mask[: max(number, 1) * 4, :8] = 0
        picture(place / "last_msk" / f"{number}.png", mask)
    return tmp_path


def test_less_than_white_is_bag(tmp_path):
    photograph = picture(tmp_path / "a.png", np.stack([np.full((4, 4), value) for value in (10, 20, 30)], axis=-1))
    mask = picture(tmp_path / "b.png", [[255, 254, 0, 1], [255, 255, 255, 255], [128] * 4, [255] * 4])
    photographs, masks = bags.read_bags(DataFiles(tmp_path), [(photograph.name, mask.name)], side=4)
    assert [channel.unique().tolist() for channel in photographs[0]] == [[10], [20], [30]]
    assert masks[0].tolist() == [[0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]


def test_photographs_and_masks_are_paired_by_name(bag_folder):
    place = bag_folder / "bag_data"
    (place / "last_msk" / "99.png").write_bytes(b"a mask without photograph is left out")
    pairs = bags.list_bags(DataFiles(place))
    assert pairs == [(f"last/{n}.png", f"last_msk/{n}.png") for n in range(20)]


def test_a_tenth_is_for_tests_and_equal_masks_stay_together(bag_folder):
    files = DataFiles(bag_folder / "bag_data")
    pairs = bags.list_bags(files)
    train, test = bags.split_bags(files, pairs)
    assert len(test) in (2, 3)
    assert sorted(train + test) == sorted(pairs)
    torch.manual_seed(7)
    assert bags.split_bags(files, pairs) == (train, test)
    assert (pairs[0] in test) == (pairs[1] in test)


def test_all_photographs_of_a_mask_go_to_one_side(tmp_path):
    """Forty photographs of four bags: a test set of a tenth has at least one bag."""
    for number in range(40):
        picture(tmp_path / "last" / f"{number}.png", np.zeros((2, 2, 3)))
        picture(tmp_path / "last_msk" / f"{number}.png", np.full((2, 2), number % 4))
    files = DataFiles(tmp_path)
    pairs = bags.list_bags(files)
    _, test = bags.split_bags(files, pairs)
    assert len({int(Path(photograph).stem) % 4 for photograph, _ in test}) == 1
    assert len(test) == 10
    with pytest.raises(UsageError, match="last_msk: all 10 photographs have the same mask; at least two are needed"):
        bags.split_bags(files, [pair for pair in pairs if int(Path(pair[0]).stem) % 4 == 0])


def test_bag_mistakes_are_errors(bag_folder):
    place = bag_folder / "bag_data"
    load = load_task("segmentation").data
    whole = (place / "last_msk" / "2.png").read_bytes()
    picture(place / "last_msk" / "2.png", np.full((112, 224), 255))
    with pytest.raises(UsageError, match=r"last_msk/2\.png: 224 x 112 pixels; its photograph .*2\.png has 224 x 224"):
        load(bag_folder)
    (place / "last_msk" / "2.png").write_bytes(whole)
    (place / "last" / "3.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"last/3\.png: this is not an image"):
        load(bag_folder)
    (place / "last_msk" / "5.png").unlink()
    with pytest.raises(UsageError, match=r"there is no mask of .*last/5\.png in .*last_msk"):
        load(bag_folder)
    (place / "last" / "7.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"last holds both 7\.jpg and 7\.png"):
        load(bag_folder)
    (place / "last").rename(place / "first")
    with pytest.raises(UsageError, match=r"there is no folder .*last"):
        load(bag_folder)
    with pytest.raises(UsageError, match="task 'segmentation' needs --data DIR, with bag_data in DIR; it holds"):
        load(None)
    with pytest.raises(UsageError, match=r"there is no folder .*bag_data, which task 'segmentation' reads"):
        load(bag_folder / "elsewhere")


def test_the_real_bags(data_folder):
    files = DataFiles(data_folder / bags.PLACE, bags.PLACE)
    pairs = bags.list_bags(files)
    train, test = bags.split_bags(files, pairs)
    assert len(pairs) == len(train) + len(test) == 532
    assert 53 <= len(test) <= 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photographs, masks = bags.read_bags(files, test)
    assert photographs.shape == (len(test), 3, 224, 224)
    share = masks.float().mean(dim=(1, 2))
    # The set's own description: the median share of bag is 0.38, 5 to 95 % of the images lie in 0.19 to 0.62.
    assert float(share.median()) == pytest.approx(0.38, abs=0.08)
    assert 0.02 < float(share.min()) < float(share.max()) < 0.95
    # The edges of a photograph of a bag are background.
    assert masks[:, 0].float().mean() < 0.1
