"""Writes results as plain files that can be committed; `lossaware.studies.store.exported` reads them."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.specs.atomic import write_whole
from lossaware.studies.specs.provenance import environment, without_folders
from lossaware.studies.specs.regular_file import read_regular
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.study import Study
from lossaware.studies.specs.user_code import source_digest
from lossaware.studies.store.digests import epoch_digest, run_digest, sealed
from lossaware.studies.store.exported import ENDING, EPOCH_DIGITS, FORMAT, GROUPS, Exported
from lossaware.studies.store.folder import Launch
from lossaware.studies.store.results import Results, Sources


def write_study(
    study: Study, measured: Iterable[RunSpec], values: str, results: Results, launches: Sequence[Launch], folder: Path
) -> list[Path]:
    """Write the files of a study. What an earlier export had stays in, unless it was of other code.

    Args:
        study: The study.
        measured: Its runs that are to be written.
        values: The content of ``NAME.csv``.
        results: Where the runs are.
        launches: How it was run.
        folder: Where to write; made if need be.

    Returns:
        The files.

    Raises:
        UsageError: Nothing is measured, or the folder cannot be written to.
    """
    earlier = Exported(folder)
    # The files of a user's own code are looked at where today's study names them, not where only an exported one does.
    own_code = {name for spec in study.specs for name in spec.own_code}
    there = {spec.key: spec for spec in earlier.specs(study.name)}
    kept = {key for key, spec in there.items() if not own_code.issuperset(spec.own_code)}
    specs = {key: spec for key, spec in there.items() if key in kept or earlier.records(spec)}
    specs |= {spec.key: spec for spec in measured}
    if not specs:
        raise UsageError(
            f"{study.what}: nothing of it is measured yet; run it first: lossaware study run {study.source}"
        )
    places = Sources([results, earlier])
    records = {
        key: earlier.epochs(study.name)[key] if key in kept else places.records(spec)
        for key, spec in sorted(specs.items())
    }
    environments: list[Mapping[str, str]] = []
    runs: dict[str, Any] = {}
    for key, spec in sorted(specs.items()):
        made_with = _shareable((earlier if key in kept else places).environment(spec))
        if made_with not in environments:
            environments.append(made_with)
        runs[key] = {
            "environment": environments.index(made_with),
            "spec": json.loads(spec.to_json()),
            **_run_digests(spec, records[key]),
        }
        today = None if key in kept else source_digest(spec.own_code)
        if spec.own_code and (source := today or earlier.source(spec)):
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
    # The last is what the others are found by.
    files = {**tables, f"{study.name}{ENDING}": _study_json(content)}
    for file, text in files.items():
        write_whole(folder / file, text)
    return [folder / file for file in files]


def add_digests(folder: Path) -> list[Path]:
    """Add digests to exported studies of an earlier version, as they are now. Their numbers stay as they are.

    Args:
        folder: The folder of the studies.

    Returns:
        The files that were written. Each says when, and by which command.

    Raises:
        UsageError: A file cannot be read or written.
    """
    exported = Exported(folder)
    made_with = _shareable(environment())  # before a file changes what the commit is said to be
    written = []
    for name in exported.without_digests:
        path = folder / f"{name}{ENDING}"
        content = json.loads(read_regular(path))
        records = exported.epochs(name)
        for spec in exported.specs(name):
            content["runs"][spec.key] |= _run_digests(spec, records[spec.key])
        tables = [f"{name}.csv", f"{name}-epochs.csv"]
        files = {file: hashlib.sha256(read_regular(folder / file)).hexdigest() for file in tables}
        runs = content.pop("runs")
        added = {"digests_added": made_with, "files": files, "runs": runs}
        write_whole(path, _study_json({**content, "format": FORMAT, **added}))
        written.append(path)
    return written


def _run_digests(spec: RunSpec, records: Sequence[EpochRecord]) -> dict[str, Any]:
    epochs = [epoch_digest(spec, record) for record in records]
    return {"digest": run_digest(spec, epochs), "epochs": [digest[:EPOCH_DIGITS] for digest in epochs]}


def _study_json(content: Mapping[str, Any]) -> str:
    """JSON with a line per run, so that a change of one is a change of one line."""
    head = sealed(content)
    runs = head.pop("runs")
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(run, ensure_ascii=False)}" for key, run in runs.items())
    return f'{text},\n "runs": {{\n{lines}\n }}\n}}\n'


def _epochs_csv(runs: Mapping[str, Sequence[EpochRecord]]) -> str:
    """A line per run and epoch, with all that was measured then."""
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


def _shareable(made_with: Mapping[str, str]) -> dict[str, str]:
    """What a run was made with, for others to read: folders of this machine are nobody's business."""
    found = dict(made_with)
    if "command" in found:
        found["command"] = without_folders(found["command"])
    return found
