"""The networks of the paper: sizes known from elsewhere, shapes, initialisation."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from lossaware.studies.models.autoencoder import convolutional_autoencoder, dense_autoencoder
from lossaware.studies.models.autoeval import AutoEval
from lossaware.studies.models.densenet import densenet
from lossaware.studies.models.initialisation import he_normal
from lossaware.studies.models.lenet import lenet5
from lossaware.studies.models.resnet import resnet50
from lossaware.studies.models.segmentation import encoder_decoder
from lossaware.studies.models.vslnet import (
    VSLNet,
)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + outputs * bias


@pytest.mark.parametrize(
    ("make", "shape", "count", "outputs"),
    [
        # Huang et al. (2017), Table 2: 1.0M. He et al. (2016): the counts that every published ResNet-50 has.
        (densenet, (3, 32, 32), 1_019_722, (10,)),
        (lambda: resnet50(100, "3x3"), (3, 32, 32), 23_705_252, (100,)),
        (lambda: resnet50(1000), (3, 64, 64), 25_557_032, (1000,)),
        (lambda: resnet50(200), (3, 64, 64), 25_557_032 - 800 * 2049, (200,)),
        (
            dense_autoencoder,
            (1, 28, 28),
            sum(linear(*s) for s in ((784, 256), (256, 64), (64, 256), (256, 784))),
            (1, 28, 28),
        ),
        (convolutional_autoencoder, (3, 32, 32), 588 + 4632 + 18480 + 18456 + 4620 + 579, (3, 32, 32)),
    ],
)
def test_a_network_has_the_known_size_and_the_outputs_shape(make, shape, count, outputs):
    net = make().eval()
    assert parameters(net) == count
    with torch.no_grad():
        assert net(torch.zeros(2, *shape)).shape == (2, *outputs)


def test_segmentation_network():
    def block(inputs, outputs):
        return 9 * inputs * outputs + outputs + 2 * outputs

    down = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    up = (512, 256, 128, 64, 32, 16)
    expected = sum(block(a, b) for sizes in (down, up) for a, b in pairwise(sizes)) + linear(16, 2)
    net = encoder_decoder().eval()
    assert parameters(net) == expected == 10_798_834
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 64, 32)).shape == (1, 2, 64, 32)
        # Halved five times: a 32nd of the side between encoder and decoder.
        middle = net[: [type(m) for m in net].index(nn.ConvTranspose2d)]
        assert middle(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 7, 7)


@pytest.mark.parametrize(("pad", "lenet"), [(2, 61_706), (0, 44_426)])
def test_autoeval_is_lenet_with_a_second_head(pad, lenet):
    net = AutoEval(pad)
    assert parameters(net) == lenet + linear(84, 4)
    classes, turns = net(torch.zeros(3, 1, 28, 28))
    assert (classes.shape, turns.shape) == ((3, 10), (3, 4))


def test_vslnet_has_the_size_of_its_parts():
    d = 128
    encoder = (
        128 * d + 4 * (7 * d + linear(d, d) + 2 * d) + 2 * 2 * d + (linear(d, 3 * d) + linear(d, d)) + linear(d, d)
    )
    attention = 3 * d + linear(4 * d, d)
    lstm = 4 * (2 * d * d + 2 * d)
    score = linear(2 * d, d) + linear(d, 1)
    rest = 2048 * 300 + linear(300, d) + linear(1024, d) + d + linear(2 * d, d) + linear(d, 1)
    assert parameters(VSLNet()) == encoder + attention + 2 * lstm + 2 * score + rest


def test_a_dense_layer_keeps_its_input_and_adds_its_growth():
    layer: Any = densenet()[1].eval()
    x = torch.randn(2, 16, 8, 8)
    y = layer(x)
    assert y.shape == (2, 28, 8, 8)
    torch.testing.assert_close(y[:, :16], x)
    torch.testing.assert_close(y[:, 16:], layer.new[2](layer.new[0](x).relu()))


def test_densenet_takes_no_other_depth():
    with pytest.raises(ValueError, match="4 more than a multiple of 3, got 41"):
        densenet(depth=41)


def sides(net, x):
    """The sides of the image in the network, each once."""
    widths = []
    for stage in net:
        x = stage(x)
        if x.dim() == 4 and (not widths or widths[-1] != x.shape[-1]):
            widths.append(x.shape[-1])
    return widths


def test_densenet_halves_the_image_between_its_blocks_and_rectifies_after_each():
    net = densenet().eval()
    with torch.no_grad():
        assert sides(net, torch.zeros(1, 3, 32, 32)) == [32, 16, 8, 1]
    kinds = [type(stage) for stage in net]
    assert [kinds[i + 1] for i, kind in enumerate(kinds) if kind is nn.BatchNorm2d] == [nn.ReLU] * 3
    assert isinstance(net[-4], nn.ReLU)


def test_a_bottleneck_adds_three_convolutions_to_its_shortcut():
    torch.manual_seed(0)
    stages: list[Any] = list(resnet50(10).eval())
    first, second = (stage for stage in stages[4:6])
    x = torch.randn(2, 64, 8, 8)

    def normed(convolution, norm, x):
        y = convolution(x)
        mean, var = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        return (y - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]

    for block in (first, second):
        a, b, _, c, d, _, e, f = block.residual
        inner = normed(e, f, normed(c, d, normed(a, b, x).relu()).relu())
        past = normed(block.shortcut[0], block.shortcut[1], x) if block is first else x
        y = block(x)
        torch.testing.assert_close(y, (inner + past).relu())
        x = y


@pytest.mark.parametrize("make", [densenet, lambda: resnet50(100, "3x3")])
def test_residual_and_dense_networks_start_after_he(make):
    torch.manual_seed(0)
    net = make()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            outputs, _, height, width = module.weight.shape
            assert float(module.weight.detach().std()) == pytest.approx(
                math.sqrt(2 / (outputs * height * width)), rel=0.1
            )
    assert torch.equal(net[-1].bias, torch.zeros_like(net[-1].bias))


def rectified(net):
    """For each convolution and linear layer, whether its outputs are rectified before the next one."""
    has_relu = []
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            has_relu.append(False)
        elif isinstance(module, nn.ReLU):
            has_relu[-1] = True
    return has_relu


@pytest.mark.parametrize("make", [encoder_decoder, dense_autoencoder, convolutional_autoencoder, lenet5])
def test_all_layers_but_the_last_are_rectified(make):
    *inner, last = rectified(make())
    assert all(inner)
    assert not last


@pytest.mark.parametrize(("make", "pools"), [(lenet5, 2), (encoder_decoder, 5)])
def test_images_are_halved_by_the_maximum(make, pools):
    assert [type(stage) for stage in make() if "Pool" in type(stage).__name__] == [nn.MaxPool2d] * pools


def test_resnet_halves_the_image_where_its_stem_and_stages_say():
    with torch.no_grad():
        assert sides(resnet50(10, "3x3").eval(), torch.zeros(1, 3, 32, 32)) == [32, 16, 8, 4, 1]
        assert sides(resnet50(10).eval(), torch.zeros(1, 3, 64, 64)) == [32, 16, 8, 4, 2, 1]


def test_he_initialisation_has_its_variance():
    torch.manual_seed(0)
    convolution, norm, linear = nn.Conv2d(40, 80, 3, bias=False), nn.BatchNorm2d(80), nn.Linear(80, 10)
    he_normal(nn.Sequential(convolution, norm, linear))
    weight = convolution.weight
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / (80 * 9)), rel=0.02)
    assert abs(float(weight.detach().mean())) < 1e-3
    assert torch.equal(linear.bias, torch.zeros(10))
    assert torch.equal(norm.weight, torch.ones(80))
