"""Does LGA help in a Transformers Trainer? The optimizer comes from the trial; the mixin hands over the losses.

    lossaware compare compare_transformers.py:train --direction maximize --lrs 1e-3,1e-2 --seeds 6

It needs ``pip install -e '.[studies,transformers]'`` in a clone of the repository.
"""

from typing import Any

import torch
import transformers
from sklearn.datasets import load_digits

import lossaware
from lossaware.recipes.transformers import LossAware

BATCH_SIZE = 64


class LossAwareTrainer(LossAware, transformers.Trainer):
    """A Trainer that hands its losses to whatever the trial has attached."""


class Report(transformers.TrainerCallback):
    """Tells the trial what the Trainer has measured after each epoch."""

    def __init__(self, trial: lossaware.Trial) -> None:
        self.trial = trial
        self.accuracy = 0.0

    def on_evaluate(self, _: Any, state: Any, *__: Any, metrics: dict[str, float], **___: Any) -> None:
        """After an epoch. Another `evaluate()` in the same epoch, as after training, replaces its numbers."""
        self.accuracy = metrics["eval_accuracy"]
        self.trial.report(round(state.epoch or 0), accuracy=self.accuracy, eval_loss=metrics["eval_loss"])


def train(trial: lossaware.Trial, epochs: int = 5) -> float:
    """Handwritten digits as sequences of pixels, read by a small BERT."""
    images, labels = load_digits(return_X_y=True)
    rows = [{"input_ids": torch.tensor(x).long(), "labels": int(y)} for x, y in zip(images, labels, strict=True)]
    training, testing = rows[360:], rows[:360]
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=17,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            num_labels=10,
        )
    )
    optimizer = trial.make_optimizer(model.parameters(), "adamw")
    trial.attach(optimizer, steps_per_epoch=-(-len(training) // BATCH_SIZE), gamma2="auto")
    report = Report(trial)
    trainer = LossAwareTrainer(
        model=model,
        args=transformers.TrainingArguments(
            str(trial.checkpoint),
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH_SIZE,
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            seed=trial.seed,
            use_cpu=trial.device.type == "cpu",
        ),
        train_dataset=training,
        eval_dataset=testing,
        compute_metrics=lambda output: {"accuracy": (output.predictions.argmax(1) == output.label_ids).mean()},
        optimizers=(optimizer, None),
        callbacks=[report],
        lga={},
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return report.accuracy
