"""Deprecated: the names of this module are in `lossaware.law`, `lossaware.law_state` and `lossaware.lower_bounds`."""

from lossaware.deprecated import renamed

__getattr__ = renamed(
    __name__,
    {
        "State": "lossaware.law_state.LawState",
        "Status": "lossaware.law_state.Status",
        "summarize": "lossaware.law_state.summarize",
        "log": "lossaware.law_state.log",
        "HOST": "lossaware.law_state.HOST",
        "Ops": "lossaware.law_state.Ops",
        "Scalar": "lossaware.law_state.Scalar",
        "Law": "lossaware.law.Law",
        "LowerBound": "lossaware.lower_bounds.LowerBound",
        "Progressive": "lossaware.lower_bounds.Progressive",
        "Average": "lossaware.lower_bounds.Average",
        "Momentum": "lossaware.lower_bounds.Momentum",
        "Zero": "lossaware.lower_bounds.Zero",
        "LOWER_BOUNDS": "lossaware.lower_bounds.LOWER_BOUNDS",
        "make_lower_bound": "lossaware.lower_bounds.make_lower_bound",
    },
)
