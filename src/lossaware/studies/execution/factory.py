"""The engines by name, for the command line. To add an engine, add an entry here."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from lossaware.errors import UsageError
from lossaware.studies.execution.events import Engine
from lossaware.studies.execution.local import LocalEngine, default_jobs
from lossaware.studies.execution.ray import RayEngine
from lossaware.studies.specs.options import did_you_mean


@contextmanager
def open_engine(
    name: str, *, jobs: int | None, device: str | None, ray_address: str | None, distributed: str | None
) -> Iterator[Engine]:
    """The engine of a command line, as a context.

    Args:
        name: See `make_engine`.
        jobs: See `make_engine`.
        device: See `make_engine`.
        ray_address: See `make_engine`.
        distributed: ``"ddp"`` or ``"fsdp"`` for runs that all processes of a torchrun share (only the first of these
            returns from here, see `lossaware.studies.execution.torchrun.joined`); None for runs in one process.

    Raises:
        UsageError: See `make_engine`; or options exclude each other.
    """
    if distributed is None:
        yield make_engine(name, jobs=jobs, device=device, ray_address=ray_address)
        return
    for option, value in (("--engine", name != "local"), ("--jobs", jobs), ("--ray-address", ray_address)):
        if value:
            raise UsageError(
                f"{option} cannot be used with --distributed, which executes one run at a time on all ranks"
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
        jobs: Number of concurrent runs, at least 1; None for the engine's default.
        device: Device of the runs, see `lossaware.studies.specs.run_spec.RunSpec`; None if not known.
        ray_address: For the engine ``ray``, see `RayEngine`.

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
