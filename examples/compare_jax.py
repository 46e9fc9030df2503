"""Does LGA help in JAX? optax's SGD on handwritten digits.

    lossaware compare compare_jax.py:train --direction maximize --lrs 1e-3,1e-2 --seeds 6

It needs ``pip install -e '.[studies,jax]'`` in a clone of the repository.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import lossaware

BATCH_SIZE = 64


def logits_of(params: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    """64 pixels -> 32 hidden units -> 10 classes."""
    return jax.nn.relu(images @ params["hidden"]) @ params["out"]


def train(trial: lossaware.Trial) -> float:
    """Handwritten digits, by optax."""
    images, labels = load_digits(return_X_y=True)
    images, is_test = images / 16, np.arange(len(labels)) % 5 == 0
    generator = np.random.default_rng(trial.seed)
    params = {
        "hidden": jnp.asarray(generator.normal(size=(64, 32)) / 8),
        "out": jnp.asarray(generator.normal(size=(32, 10)) / 6),
    }
    steps = int((~is_test).sum()) // BATCH_SIZE
    optimizer = trial.loss_aware(optax.sgd(trial.lr), steps_per_epoch=steps, gamma2="auto")
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any, jax.Array]:
        def mean_loss(params: dict[str, jax.Array]) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(logits_of(params, x), y).mean()

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, state = optimizer.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state, loss

    accuracy = 0.0
    for epoch in trial.epochs(5):
        order = generator.permutation(np.flatnonzero(~is_test))
        for chosen in np.array_split(order[: steps * BATCH_SIZE], steps):
            params, state, loss = step(params, state, images[chosen], labels[chosen])
        accuracy = float((logits_of(params, images[is_test]).argmax(1) == labels[is_test]).mean())
        trial.report(epoch, loss=loss, accuracy=accuracy)
    return accuracy
