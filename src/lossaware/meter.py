"""Deprecated: the names of this module are in `lossaware.update_meter`."""

from lossaware.deprecated import renamed

__getattr__ = renamed(
    __name__,
    {
        "Measurement": "lossaware.update_meter.Measurement",
        "UpdateMeter": "lossaware.update_meter.UpdateMeter",
        "SAMPLE": "lossaware.update_meter.SAMPLE",
    },
)
