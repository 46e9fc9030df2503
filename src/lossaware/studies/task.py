"""The public names for a task of your own: ``from lossaware.studies.task import Data, InMemory, Task``."""

from lossaware.studies.specs.data_folder import FilesRead
from lossaware.studies.specs.task import Batch, Data, Examples, InMemory, Task

__all__ = ["Batch", "Data", "Examples", "FilesRead", "InMemory", "Task"]
