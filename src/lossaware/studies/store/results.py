"""The interface of results, and the union of several places."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from lossaware.studies.specs.run_spec import EpochRecord, RunSpec

if TYPE_CHECKING:
    from lossaware.studies.store.database import Store


class Results(Protocol):
    """A source of runs."""

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        """The epochs of a run so far, in order; empty for an unknown run."""

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """The environment of a run (see `lossaware.studies.specs.provenance`); empty for an unknown run."""

    def specs(self) -> Sequence[RunSpec]:
        """All runs, finished or not, each once."""


class Sources:
    """The union of several places of results; a run is read from the first place with the most epochs of it."""

    def __init__(self, places: Sequence[Results]) -> None:
        self._places = places

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        """See `Results.records`."""
        longest: Sequence[EpochRecord] = ()
        for place in self._places:
            if len(records := place.records(spec)) > len(longest):
                longest = records
        return longest

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """See `Results.environment`."""
        most = len(self.records(spec))
        return next((place.environment(spec) for place in self._places if len(place.records(spec)) == most), {})

    def specs(self) -> Sequence[RunSpec]:
        """See `Results.specs`."""
        return list(dict.fromkeys(spec for place in self._places for spec in place.specs()))


class FinishedRuns:
    """The runs of a store. Open-ended runs have no epochs until they are complete."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        """See `Results.records`."""
        return self._store.records(spec) if self._store.complete(spec) or not spec.is_open_ended else ()

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """See `Results.environment`."""
        return self._store.environment(spec)

    def specs(self) -> Sequence[RunSpec]:
        """See `Results.specs`."""
        return self._store.specs()
