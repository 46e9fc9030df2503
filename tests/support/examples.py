"""The tensors of examples in memory."""

from lossaware.studies.specs.task import Batch, Examples, InMemory


def tensors_of(examples: Examples) -> Batch:
    assert isinstance(examples, InMemory)
    return examples.tensors
