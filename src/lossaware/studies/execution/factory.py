"""The engines by name, as the command line takes them. A further one is an entry here."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from lossaware.errors import UsageError
from lossaware.studies.execution.events import Engine
from lossaware.studies.execution.local import LocalEngine, default_jobs
from lossaware.studies.execution.ray import RayEngine
from lossaware.studies.specs.options import did_you_mean


@contextmanager
def opened(
    name: str, *, jobs: int | None, device: str | None, ray_address: str | None, distributed: str | None
) -> Iterator[Engine]:
    """The engine that a command line asks for, while it is used.

    Args:
        name: See `make_engine`, as the next three.
        jobs: Likewise.
        device: Likewise.
        ray_address: Likewise.
        distributed: ``"ddp"`` or ``"fsdp"`` for runs that all processes of a torchrun share (of these only the first
            comes back from here, see `lossaware.studies.execution.torchrun.joined`); None for runs of one process.

    Raises:
        UsageError: As `make_engine`; or what is asked for does not go together.
    """
    if distributed is None:
        yield make_engine(name, jobs=jobs, device=device, ray_address=ray_address)
        return
    for option, given in (("--engine", name != "local"), ("--jobs", jobs), ("--ray-address", ray_address)):
        if given:
            raise UsageError(
                f"{option} does not go with --distributed, whose runs come one after another, each on all ranks"
            )
    from lossaware.studies.execution.torchrun import joined

    with joined(distributed) as engine:
        yield engine


def make_engine(
    name: str, *, jobs: int | None = None, device: str | None = None, ray_address: str | None = None
) -> Engine:
    """The engine ``name``.

    Args:
        name: One of `ENGINES`.
        jobs: Runs at a time, at least 1; None leaves it to the engine.
        device: Where the runs compute, as in `lossaware.studies.specs.run_spec.RunSpec`, as far as it is known.
        ray_address: For the engine ``ray``, as in `RayEngine`.

    Raises:
        UsageError: The engine is unknown or not installed, or a value is not allowed.
    """
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}{did_you_mean(name, ENGINES)}")
    if ray_address is not None and name != "ray":
        raise UsageError("--ray-address needs --engine ray")
    return ENGINES[name](jobs, device, ray_address)


ENGINES: Mapping[str, Callable[[int | None, str | None, str | None], Engine]] = {
    "local": lambda jobs, device, _: LocalEngine(default_jobs(device) if jobs is None else jobs),
    "ray": lambda jobs, _, address: RayEngine(jobs, address),
}
