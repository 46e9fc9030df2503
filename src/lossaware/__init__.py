"""Make any optimizer loss-aware (LGA), and learn honestly whether that helps."""

from lossaware._version import __version__
from lossaware.companion import LGA
from lossaware.errors import UsageError
from lossaware.status import Average, LowerBound, Momentum, Progressive, Status

__all__ = ["LGA", "Average", "LowerBound", "Momentum", "Progressive", "Status", "UsageError", "__version__"]
