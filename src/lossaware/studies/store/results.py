"""What all places of results have in common, and several places as one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from lossaware.studies.specs.run_spec import EpochRecord, RunSpec


class Results(Protocol):
    """Where finished runs are read from."""

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        """The epochs of a run so far, in order; empty for an unknown run."""

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """What a run was made with (see `lossaware.studies.specs.provenance`); empty for an unknown run."""

    def specs(self) -> Sequence[RunSpec]:
        """All runs that are there, finished or not, each once."""


class Sources:
    """Several places of results, or none; a run is taken from the first that has most of it."""

    def __init__(self, places: Sequence[Results]) -> None:
        self._places = places

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        """See `Results.records`."""
        found: Sequence[EpochRecord] = ()
        for place in self._places:
            if len(records := place.records(spec)) > len(found):
                found = records
        return found

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """See `Results.environment`."""
        most = len(self.records(spec))
        return next((place.environment(spec) for place in self._places if len(place.records(spec)) == most), {})

    def specs(self) -> Sequence[RunSpec]:
        """See `Results.specs`."""
        return list(dict.fromkeys(spec for place in self._places for spec in place.specs()))
