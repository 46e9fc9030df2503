"""The engines by name, as the command line takes them. A further one is an entry here."""

from collections.abc import Callable, Mapping

from lossaware.errors import UsageError
from lossaware.studies.arguments import did_you_mean
from lossaware.studies.engine import Engine, LocalEngine, default_jobs
from lossaware.studies.ray_engine import RayEngine


def make_engine(
    name: str, *, jobs: int | None = None, device: str | None = None, ray_address: str | None = None
) -> Engine:
    """The engine ``name``.

    Args:
        name: One of `ENGINES`.
        jobs: Runs at a time, at least 1; None leaves it to the engine.
        device: Where the runs compute, as in `lossaware.studies.spec.RunSpec`, as far as it is known.
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
