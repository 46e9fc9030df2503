"""The small tasks without a download: data, losses, and the special property of each."""

import math

import pytest
import torch
from torch import nn

from lossaware.errors import UsageError
from lossaware.studies.data.python_text import characters, reference_text, windows, words
from lossaware.studies.models.classification import classification
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.tasks import digits, embeddings
from lossaware.studies.training.run import run
from support.examples import tensors_of

# Name, options, and the loss of an untrained network: a uniform guess, or the variance of the targets.
TASKS = [
    ("characters", {}, math.log(characters()[1])),
    ("characters", {"network": "gru"}, math.log(characters()[1])),
    ("embeddings", {}, math.log(embeddings.VOCABULARY)),
    ("friedman", {}, 1.0),
    ("likelihood", {}, None),
    ("vae", {}, 64 * math.log(2)),
    ("deep", {}, math.log(10)),
    ("noisy-labels", {}, math.log(10)),
    ("batch-norm", {}, math.log(10)),
    ("continued", {}, None),
    ("continued", {"data": "inverted"}, None),
    ("contrastive", {}, math.log(64)),
    ("coordinates", {}, None),
]
IDS = ["-".join([name, *chosen.values()]) for name, chosen, _ in TASKS]


def trained(name, chosen, steps, lr=2e-3):
    """The losses of some steps of AdamW."""
    task = load_task(name, chosen)
    torch.manual_seed(0)
    model, data, generator = task.make_model(), task.load(None), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses: list[float] = []
    while len(losses) < steps:
        for batch in data.train.batches(task.batch_size, generator):
            loss = task.measure(model, batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    return losses, task, model, data


@pytest.mark.parametrize(("name", "chosen", "chance"), TASKS, ids=IDS)
def test_the_loss_begins_where_it_should_and_falls(name, chosen, chance):
    losses, _, model, _ = trained(name, chosen, 40)
    assert all(map(math.isfinite, losses))
    if chance is not None:
        assert losses[0] == pytest.approx(chance, rel=0.35)
    if chosen != {} or name != "continued":  # which has learned all of its images already
        assert sum(losses[-5:]) < sum(losses[:5])
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("name", "chosen", "_"), TASKS, ids=IDS)
def test_data_do_not_depend_on_the_seed_and_sets_are_disjoint(name, chosen, _):
    task = load_task(name, chosen)
    torch.manual_seed(1)
    first = task.load(None)
    torch.manual_seed(2)
    second = task.load(None)
    for one, two in ((first.train, second.train), (first.test, second.test)):
        assert all(map(torch.equal, tensors_of(one), tensors_of(two)))
    train, test = (
        {tuple(row.flatten().tolist()) for row in tensors_of(part)[0][:300]} for part in (first.train, first.test)
    )
    assert name == "embeddings" or not train & test  # three words can come twice


@pytest.mark.parametrize(("name", "chosen", "_"), TASKS, ids=IDS)
def test_a_run_gives_the_same_numbers_twice(name, chosen, _):
    spec = RunSpec(
        task=name, task_options=options(**chosen), optimizer="sgd", lr=1e-2, seed=3, epochs=1, batch_size=256
    )
    (one,), (two,) = run(spec, None), run(spec, None)
    assert (one.train, one.test) == (two.train, two.test)
    assert load_task(name, chosen).score in one.test


def test_text_is_long_enough_and_plain():
    text = reference_text()
    assert len(text) > 200_000
    assert text.isascii()
    assert "  " not in text
    codes, count = characters()
    assert (int(codes.min()), int(codes.max())) == (0, count - 1)


def test_words_are_ranked_by_their_frequency_and_rare_ones_share_a_code():
    codes = words(100)
    counts = codes.bincount()
    assert len(counts) == 100
    assert counts[:-1].tolist() == sorted(counts[:-1].tolist(), reverse=True)
    assert counts[-1] > counts[-2]


def test_windows_are_pieces_of_the_text():
    pieces = windows(torch.arange(50), 8, 5)
    assert pieces.shape == (5, 8)
    assert (pieces.diff(dim=1) == 1).all()
    assert pieces[0, 0] == 0
    assert pieces[-1, -1] < 50


def test_a_transformer_is_causal():
    torch.manual_seed(0)
    model = load_task("characters").make_model().eval()
    text = torch.randint(0, characters()[1], (2, 20))
    changed = text.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % characters()[1]
    torch.testing.assert_close(model(text)[:, :12], model(changed)[:, :12])
    assert not torch.allclose(model(text)[:, 12:], model(changed)[:, 12:])


def test_most_rows_of_embeddings_have_zero_gradients():
    task = load_task("embeddings")
    model = task.make_model()
    batch = next(iter(task.load(None).train.batches(task.batch_size, None)))
    task.measure(model, batch)["loss"].backward()
    rows = next(model.parameters()).grad
    assert 0 < (rows != 0).any(dim=1).sum() < len(rows) / 5


def test_noise_of_the_regression_is_in_the_training_values_alone():
    data = load_task("friedman").load(None)
    variances = [tensors_of(part)[1].var().item() for part in (data.train, data.test)]
    assert variances[0] == pytest.approx(1, rel=0.01)
    assert variances[1] == pytest.approx(1 - 2.5**2 / (23.8 + 2.5**2), rel=0.1)  # 23.8: of the values without noise


def test_the_likelihood_falls_below_zero():
    losses, *_ = trained("likelihood", {}, 300, lr=5e-3)
    assert losses[0] > 0 > losses[-1]


@pytest.mark.parametrize("share", [0, 0.2, 1.0])
def test_the_requested_share_of_labels_is_drawn(share):
    clean, noisy = digits.load(), load_task("noisy-labels", {"share": share}).load(None)
    wrong = (tensors_of(clean.train)[1] != tensors_of(noisy.train)[1]).float().mean().item()
    assert wrong == pytest.approx(0.9 * share, abs=0.03)
    assert torch.equal(tensors_of(clean.test)[1], tensors_of(noisy.test)[1])


def test_a_vae_is_tested_without_noise():
    task = load_task("vae")
    model, images = task.make_model().eval(), tensors_of(task.load(None).test)
    torch.manual_seed(0)
    first = task.measure(model, images)
    torch.manual_seed(1)
    assert task.measure(model, images)["loss"] == first["loss"]
    model.train()
    assert task.measure(model, images)["loss"] != first["loss"]
    torch.testing.assert_close(first["loss"], first["reconstruction"] + first["divergence"])


def test_continued_training_begins_with_a_trained_network():
    def accuracy(data):
        task = load_task("continued", {"data": data})
        torch.manual_seed(0)
        return classification(task.make_model().eval(), tensors_of(task.load(None).test))["accuracy"].item()

    assert accuracy("same") > 0.95
    assert accuracy("inverted") < 0.5


def test_a_deep_network_has_the_requested_layers():
    model = load_task("deep", {"depth": 5}).make_model()
    assert sum(isinstance(module, nn.Linear) for module in model.children()) == 5


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("characters", {"network": "lstm"}, "network must be transformer or gru, got 'lstm'"),
        ("noisy-labels", {"share": 1.5}, "share must be from 0 to 1, got 1.5"),
        ("noisy-labels", {"share": True}, "share must be from 0 to 1, got True"),
        ("deep", {"depth": 1}, "depth must be an integer of at least 2, got 1"),
        ("continued", {"data": "other"}, "data must be same or inverted, got 'other'"),
        ("cifar10", {"depth": 12}, "depth must be 4 more than a multiple of 3, and at least 7, got 12"),
        ("cifar10", {"growth": 0}, "growth must be an integer of at least 1, got 0"),
        ("segmentation", {"side": 48}, "side must be a multiple of 32 above 0, got 48"),
        ("segmentation", {"width": 0}, "width must be a multiple of 4 above 0, got 0"),
    ],
)
def test_mistakes_in_options_are_errors(name, chosen, message):
    with pytest.raises(UsageError, match=message):
        load_task(name, chosen)


def test_networks_of_the_paper_can_be_made_smaller():
    sizes = [
        sum(p.numel() for p in load_task(name, chosen).make_model().parameters())
        for name, chosen in (
            ("cifar10", {}),
            ("cifar10", {"depth": 10, "growth": 6}),
            ("segmentation", {}),
            ("segmentation", {"width": 8}),
        )
    ]
    assert sizes[0] == 1_019_722
    assert sizes[1] < sizes[0] / 20
    assert sizes[3] < sizes[2] / 50
    assert load_task("segmentation", {"width": 8}).make_model()(torch.zeros(2, 3, 64, 64)).shape == (2, 2, 64, 64)
