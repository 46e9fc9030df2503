"""Deprecated: `LGA` is in `lossaware.lga`."""

from lossaware.deprecated import renamed

__getattr__ = renamed(
    __name__,
    {
        "LGA": "lossaware.lga.LGA",
    },
)
