"""Train on handwritten digits with Flax NNX: SGD without and with LGA, at a learning rate that is too small.

It needs ``pip install -e '.[jax]' flax scikit-learn`` in a clone of the repository. You can pass the number of epochs:
``python examples/flax_nnx.py 20``.
"""

import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from lossaware.optax import loss_aware, status

BATCH_SIZE = 64
LEARNING_RATE = 1e-3


class Classifier(nnx.Module):
    """A network with 64 inputs (pixels), 64 hidden units and 10 outputs (classes)."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Compute logits of shape (images, 10)."""
        logits: jax.Array = self.out(nnx.relu(self.hidden(images)))
        return logits


def mean_loss(model: Classifier, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the mean cross-entropy of a batch."""
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
    return losses.mean()


@nnx.jit
def train_step(model: Classifier, optimizer: nnx.Optimizer[Classifier], images: jax.Array, labels: jax.Array) -> None:
    """Make one step. The only difference from a step without LGA is ``value=loss``."""
    loss, grads = nnx.value_and_grad(mean_loss)(model, images, labels)
    optimizer.update(model, grads, value=loss)


def batches(images: np.ndarray, labels: np.ndarray, seed: int) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yield the shuffled batches of one epoch. The last batch is dropped if it is smaller."""
    order = np.random.default_rng(seed).permutation(len(images))
    for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        yield jnp.asarray(images[rows]), jnp.asarray(labels[rows])


def train(optimizer: optax.GradientTransformation, epochs: int) -> tuple[float, nnx.Optimizer[Classifier]]:
    """Train one model. Return its accuracy on all digits, and its optimizer."""
    images, labels = load_digits(return_X_y=True)
    images = ((images - images.mean()) / images.std()).astype(np.float32)
    model = Classifier(nnx.Rngs(0))
    trained = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    for epoch in range(epochs):
        for batch in batches(images, labels, seed=epoch):
            train_step(model, trained, *batch)
    return float((model(jnp.asarray(images)).argmax(axis=-1) == labels).mean()), trained


def main(epochs: int) -> None:
    """Train without and with LGA, and print both accuracies and LGA's status."""
    base = optax.sgd(LEARNING_RATE)
    plain, _ = train(base, epochs)
    steps_per_epoch = len(load_digits().target) // BATCH_SIZE
    aware, optimizer = train(loss_aware(base, steps_per_epoch=steps_per_epoch, gamma2=1e-6), epochs)
    print(f"accuracy after {epochs} epochs: SGD {plain:.3f}, with LGA {aware:.3f}")
    print(status(optimizer.opt_state))


if __name__ == "__main__":
    main(epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 10)
