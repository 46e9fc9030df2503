"""Export of results to plain files that can be committed; `lossaware.studies.store.exported` reads them."""

import csv
import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lossaware.errors import Note, UsageError
from lossaware.studies.specs.atomic import write_atomic
from lossaware.studies.specs.escape import json_text
from lossaware.studies.specs.provenance import environment, without_folders
from lossaware.studies.specs.regular_file import read_regular, read_text
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.seal import sealed
from lossaware.studies.specs.study import Study, load_study, studies
from lossaware.studies.specs.user_code import source_digest
from lossaware.studies.store.digests import epoch_digest, run_digest
from lossaware.studies.store.exported import ENDING, EPOCH_DIGITS, FORMAT, GROUPS, Exported
from lossaware.studies.store.folder import Launch
from lossaware.studies.store.results import Results, Sources


def write_study(
    study: Study, measured: Iterable[RunSpec], values: str, results: Results, launches: Sequence[Launch], folder: Path
) -> list[Path]:
    """Write the files of a study. Runs of an earlier export are kept, unless their code has changed.

    Args:
        study: The study.
        measured: Its runs to write.
        values: The content of ``NAME.csv``.
        results: The store of the runs.
        launches: Its launches.
        folder: Target folder; created if missing.

    Returns:
        The files.

    Raises:
        UsageError: There are no results, or the folder cannot be written to.
    """
    if study.source != study.name and study.name in studies() and study.digest != load_study(study.name).digest:
        raise UsageError(f"{study.label} has the name of a built-in study, whose export it would replace: rename it")
    earlier = Exported(folder)
    # Files of a user's own code are only read if the present study names them, not if only an earlier export does.
    own_code = {name for spec in study.specs for name in spec.own_code}
    exported = {spec.key: spec for spec in earlier.specs(study.name)}
    keys = {key for key, spec in exported.items() if not own_code.issuperset(spec.own_code)}
    specs = {key: spec for key, spec in exported.items() if key in keys or earlier.records(spec)}
    specs |= {spec.key: spec for spec in measured}
    if not specs:
        raise UsageError(f"{study.label} has no results yet; run it first: lossaware study run {study.source}")
    places = Sources([results, earlier])
    records = {
        key: earlier.epochs(study.name)[key] if key in keys else places.records(spec)
        for key, spec in sorted(specs.items())
    }
    if absolute := {name for spec in specs.values() for name in spec.own_code if Path(name).is_absolute()}:
        warnings.warn(
            f"{min(absolute)}: the exported runs contain this path, because it names the study's own code; a relative "
            "path would not show your folders",
            Note,
            stacklevel=2,
        )
    environments: list[Mapping[str, str]] = []
    runs: dict[str, Any] = {}
    for key, spec in sorted(specs.items()):
        run_environment = _shareable((earlier if key in keys else places).environment(spec))
        if run_environment not in environments:
            environments.append(run_environment)
        runs[key] = {
            "environment": environments.index(run_environment),
            "spec": json.loads(spec.to_json()),
            **_run_digests(spec, records[key]),
        }
        source_now = None if key in keys else source_digest(spec.own_code)
        if spec.own_code and (source := source_now or earlier.source(spec)):
            runs[key]["source"] = source
    tables = {f"{study.name}.csv": values, f"{study.name}-epochs.csv": _epochs_csv(records)}
    content = {
        "format": FORMAT,
        "study": study.name,
        "title": study.title,
        "digest": study.digest,
        "exported": _shareable(environment()),
        "launches": [{**launch.to_plain(), "environment": _shareable(launch.environment)} for launch in launches],
        "environments": environments,
        "files": {file: hashlib.sha256(text.encode()).hexdigest() for file, text in tables.items()},
        "runs": runs,
    }
    for file, text in tables.items():
        _check_ours(folder / file, text)
    # Last, as readers find the others by this file.
    files = {**tables, f"{study.name}{ENDING}": _study_json(content)}
    for file, text in files.items():
        write_atomic(folder / file, text)
    return [folder / file for file in files]


def _check_ours(path: Path, text: str) -> None:
    """Refuse to replace a file of another kind, such as the table of a plot with the study's name."""
    if not path.exists() and not path.is_symlink():
        return
    heads, own = (set(content.partition("\n")[0].split(",")) for content in (read_text(path), text))
    if "run" not in heads or not {"seed", "epoch"} & heads & own:
        raise UsageError(f"{path} exists, but is not of an exported study: give the study's file another name")


def add_digests(folder: Path) -> list[Path]:
    """Add digests of the present numbers to exported studies of an earlier version.

    Args:
        folder: The folder of the studies.

    Returns:
        The written files. Each has the date and the command.

    Raises:
        UsageError: A file cannot be read or written.
    """
    exported = Exported(folder)
    added_by = _shareable(environment())  # before a written file changes the state of the checkout
    paths = []
    for name in exported.without_digests:
        path = folder / f"{name}{ENDING}"
        content = json.loads(read_regular(path))
        records = exported.epochs(name)
        for spec in exported.specs(name):
            content["runs"][spec.key] |= _run_digests(spec, records[spec.key])
        tables = [f"{name}.csv", f"{name}-epochs.csv"]
        files = {file: hashlib.sha256(read_regular(folder / file)).hexdigest() for file in tables}
        runs = content.pop("runs")
        added = {"digests_added": added_by, "files": files, "runs": runs}
        write_atomic(path, _study_json({**content, "format": FORMAT, **added}))
        paths.append(path)
    return paths


def _run_digests(spec: RunSpec, records: Sequence[EpochRecord]) -> dict[str, Any]:
    epochs = [epoch_digest(spec, record) for record in records]
    return {"digest": run_digest(spec, epochs), "epochs": [digest[:EPOCH_DIGITS] for digest in epochs]}


def _study_json(content: Mapping[str, Any]) -> str:
    """JSON with one line per run, so that a change of one run is a change of one line."""
    head = sealed(content)
    runs = head.pop("runs")
    text = json_text(head, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(key)}: {json_text(run)}" for key, run in runs.items())
    return f'{text},\n "runs": {{\n{lines}\n }}\n}}\n'


def _epochs_csv(runs: Mapping[str, Sequence[EpochRecord]]) -> str:
    """One line per run and epoch, with all measures."""
    rows = []
    for key, records in runs.items():
        for record in records:
            values = {"run": key, "epoch": str(record.epoch), "seconds": repr(float(record.seconds))}
            for group in GROUPS:
                measures: Mapping[str, float] = getattr(record, group) or {}
                values |= {f"{group}.{name}": repr(float(value)) for name, value in measures.items()}
            rows.append(values)
    names = dict.fromkeys(name for row in rows for name in row)
    heads = [*list(names)[:3], *(name for group in GROUPS for name in names if name.startswith(f"{group}."))]
    file = io.StringIO()
    writer = csv.DictWriter(file, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _shareable(run_environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run, without the folders of this machine."""
    result = dict(run_environment)
    if "command" in result:
        result["command"] = without_folders(result["command"])
    return result
