"""Augmentation, pixel by pixel: the windows, mirrors and rotations of pictures whose result is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from lossaware.studies.data.augmentation import mirrored, move_mirror_rotate, moved, rotated

PICTURE = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((1, 1), [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        ((0, 1), [[0, 0, 0], [1, 2, 3], [4, 5, 6]]),
        ((2, 1), [[4, 5, 6], [7, 8, 9], [0, 0, 0]]),
        ((1, 0), [[0, 1, 2], [0, 4, 5], [0, 7, 8]]),
        ((2, 2), [[5, 6, 0], [8, 9, 0], [0, 0, 0]]),
    ],
)
def test_windows_of_the_padded_image(offset, expected):
    assert moved(PICTURE, torch.tensor([offset]), 1)[0, 0].tolist() == expected


def test_each_image_has_its_own_window_and_all_its_channels_the_same():
    images = torch.rand(40, 3, 8, 8)
    offsets = torch.randint(9, (40, 2))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)))
    for image, source, (row, column) in zip(moved(images, offsets, 4), padded, offsets.tolist(), strict=True):
        np.testing.assert_array_equal(image.numpy(), source[:, row : row + 8, column : column + 8])


def test_only_the_chosen_are_mirrored():
    both = mirrored(PICTURE.repeat(2, 2, 1, 1), torch.tensor([True, False]))
    assert both[0, 1].tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert both[1, 0].tolist() == PICTURE[0, 0].tolist()


@pytest.mark.parametrize("quarter", range(4))
def test_quarter_turns_are_exact_and_counter_clockwise(quarter):
    images = torch.rand(2, 3, 6, 6)
    expected = torch.rot90(images, quarter, dims=(-2, -1))
    assert torch.equal(rotated(images, torch.full((2,), 90.0 * quarter)), expected)


@pytest.mark.parametrize("degrees", [-15.0, -7.3, 4.1, 15.0])
def test_rotations_agree_with_pillow(degrees):
    pixels = np.random.default_rng(0).integers(1, 256, (32, 32), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).rotate(degrees, Image.Resampling.NEAREST))
    result = rotated(torch.from_numpy(pixels).float()[None, None], torch.tensor([degrees]))[0, 0].numpy()
    # If a point is between two pixels, up to rounding, the two may differ.
    assert (result == expected).mean() > 0.99
    assert ((result == 0) == (expected == 0)).mean() > 0.99


def test_each_image_has_its_own_angle():
    images = torch.rand(3, 1, 5, 5)
    turned = rotated(images, torch.tensor([0.0, 180.0, 90.0]))
    assert torch.equal(turned[0], images[0])
    assert torch.equal(turned[1], images[1].flip(-1, -2))
    assert torch.equal(turned[2], images[2].rot90(1, dims=(-2, -1)))


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
AUGMENT = move_mirror_rotate(4, 15.0, MEAN, STD)


def standard(pixels):
    return (pixels - torch.tensor(MEAN).reshape(-1, 1, 1)) / torch.tensor(STD).reshape(-1, 1, 1)


def test_the_generator_decides_and_nothing_else():
    batch = (torch.rand(16, 3, 32, 32), torch.arange(16))
    torch.manual_seed(0)
    one = AUGMENT(batch, torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    two = AUGMENT(batch, torch.Generator().manual_seed(5))
    assert torch.equal(one[0], two[0])
    assert one[1] is batch[1]
    assert not torch.equal(one[0], AUGMENT(batch, torch.Generator().manual_seed(6))[0])
    generator = torch.Generator().manual_seed(5)
    AUGMENT(batch, generator)
    assert not torch.equal(one[0], AUGMENT(batch, generator)[0])


def test_shifted_pixels_are_black_and_the_rest_is_the_image():
    """Black is 0 before the images are standardised, so -mean / std after it."""
    white = standard(torch.ones(64, 3, 32, 32))
    changed, _ = AUGMENT((white, torch.zeros(64)), torch.Generator().manual_seed(0))
    black = standard(torch.zeros(1, 3, 1, 1))
    is_white, is_black = (torch.isclose(changed, colour, atol=1e-5) for colour in (white, black))
    assert (is_white | is_black).all()
    corner = is_black[:, 0, 0, 0]
    assert 0.5 < corner.float().mean() <= 1
    assert is_white[:, :, 16, 16].all()


def test_moves_reach_the_pad_on_every_side_and_half_are_mirrored():
    still = move_mirror_rotate(4, 0.0, (0.0,), (1.0,))
    dot = torch.zeros(3000, 1, 32, 32)
    dot[:, :, 10, 10] = 1
    changed, _ = still((dot, torch.zeros(3000)), torch.Generator().manual_seed(0))
    rows, columns = changed[:, 0].nonzero()[:, 1:].unbind(1)
    assert len(rows) == 3000
    assert sorted(rows.unique().tolist()) == list(range(6, 15))
    mirror = columns > 16
    assert mirror.float().mean() == pytest.approx(0.5, abs=0.05)
    assert sorted(columns[~mirror].unique().tolist()) == list(range(6, 15))
    assert sorted(columns[mirror].unique().tolist()) == list(range(17, 26))


def test_angles_reach_their_limit_on_both_sides():
    """A dot to the right of the middle goes up where the rotation is counter-clockwise."""
    turning = move_mirror_rotate(0, 15.0, (0.0,), (1.0,))
    wedge = torch.zeros(2000, 1, 65, 65)
    wedge[:, :, 32, :] = 1
    changed, _ = turning((wedge, torch.zeros(2000)), torch.Generator().manual_seed(0))
    heights = 32.0 - changed[:, 0, :, 60].argmax(dim=1)
    angles = torch.rad2deg(torch.atan2(heights, torch.tensor(28.0)))
    assert float(angles.max()) == pytest.approx(15, abs=1.5)
    assert float(angles.min()) == pytest.approx(-15, abs=1.5)
    assert float(angles.mean()) == pytest.approx(0, abs=1)
