"""The time for which a worker may be silent."""

import time

import pytest

from lossaware.studies.execution import patience
from lossaware.studies.execution.events import EpochDone, Progress
from lossaware.studies.execution.patience import Patience
from lossaware.studies.specs.run_spec import RunSpec

SPEC = RunSpec(task="digits", optimizer="sgd", lr=0.01, seed=0, epochs=2, batch_size=100)
PROGRESS, EPOCH = Progress(SPEC, 1, 1, 2, 0.0), EpochDone(SPEC, None)


@pytest.fixture
def clock(monkeypatch):
    """Passes time: at once, or with the engine's looks at a worker in between."""

    class Clock:
        now = 0.0

        def jump(self, seconds):
            self.now += seconds

        def look(self, worker, seconds):
            for _ in range(round(seconds / patience.LOOK_EVERY)):
                self.now += patience.LOOK_EVERY
                over = worker.is_over()
            return over

    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(patience, "SILENCE", 100.0)
    monkeypatch.setattr(patience, "FIRST_SILENCE", 2000.0)
    return clock


def test_it_is_a_multiple_of_the_number_of_ranks(clock):
    worker = Patience()
    assert not clock.look(worker, 2000), "data may take long to load"
    worker.note_event(PROGRESS)
    assert not clock.look(worker, patience.MANY * 2000), "and a test too"
    worker.note_event(EPOCH)
    assert not clock.look(worker, patience.MANY**2 * 2000), "it was as silent before"
    assert clock.look(worker, 10)
    assert worker.reason() == "hanging: no event for 800010 s"


def test_it_is_never_short(clock):
    worker = Patience()
    worker.note_event(EPOCH)
    assert not clock.look(worker, 100)
    assert clock.look(worker, 10)
    assert clock.look(Patience(), 2010)


def test_the_time_in_which_this_process_was_stopped_does_not_count(clock):
    """Ctrl-Z for an hour: the worker was stopped as well."""
    worker = Patience()
    worker.note_event(EPOCH)
    clock.jump(3600)
    assert not worker.is_over()
    assert not clock.look(worker, 50)
    worker.note_event(PROGRESS)
    clock.jump(3600)
    worker.note_event(PROGRESS)
    assert clock.look(worker, patience.MANY * 60 + 10), "the hours do not make it more patient either"
