"""Results that a test makes up."""

from collections.abc import Mapping, Sequence

from lossaware.studies.specs.run_spec import EpochRecord, RunSpec


class MadeUp:
    """Runs held in memory; results that follow a formula derive from it.

    It has the methods of `lossaware.studies.store.results.Results`.
    """

    def __init__(self, runs: Mapping[RunSpec, Sequence[EpochRecord]] | None = None) -> None:
        self.runs = dict(runs or {})

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        return self.runs.get(spec, ())

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        return {}

    def specs(self) -> Sequence[RunSpec]:
        return list(self.runs)
