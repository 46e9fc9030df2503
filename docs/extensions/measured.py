"""Directives that show measurements from the files in ``results/``, so that figures are not written into pages by hand.

``study NAME`` is the table of a study, ``study-curves NAME`` its learning curves, ``study-page NAME`` a page of both,
``all-studies`` an overview with links to these pages, and ``measured-files FOLDER`` the output of benchmarks.
If there are no results, the page shows the command that makes them.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from stored import exported_in, study_table

from lossaware.studies.analysis.study_table import StudyTable
from lossaware.studies.report.curves import Curves, heading_of, plot_curves
from lossaware.studies.report.image import Image
from lossaware.studies.report.other_settings import split_by_settings
from lossaware.studies.report.plot import SERIES
from lossaware.studies.report.writers.markdown import write
from lossaware.studies.specs.escape import markdown
from lossaware.studies.specs.formatting import number
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.study import Metric, Study, load_study, studies, without_lga
from lossaware.studies.store.exported import Exported

RESULTS = Path(__file__).parents[2] / "results"
MANY = 8
"""More figures than these are shown on request."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_config_value("results_folder", str(RESULTS), "env")
    app.add_directive("study", StudyDirective)
    app.add_directive("study-page", StudyPageDirective)
    app.add_directive("study-curves", StudyCurvesDirective)
    app.add_directive("all-studies", AllStudiesDirective)
    app.add_directive("measured-files", MeasuredFilesDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class _Measured(SphinxDirective):
    @property
    def folder(self) -> Path:
        """The folder of results."""
        return Path(self.config.results_folder)

    def table(self, name: str) -> StudyTable | None:
        """A study as it was measured; None where it was not."""
        table = study_table(self.env, self.folder, name)
        return table if any(measured.has_results for measured in table.cells.values()) else None

    def markdown(self, text: str) -> list[nodes.Node]:
        """Markdown as a part of the page."""
        # Docutils strips the blanks at the end of a line, which end it in Markdown, as a backslash does.
        return self.parse_text_to_nodes(re.sub(r" {2}\n(?=\S)", r"\\\n", text))

    def tables(self, table: StudyTable, *, with_title: bool = True) -> list[nodes.Node]:
        """The table, cells with other settings in a second table, and its provenance in a fold."""
        own, *other = split_by_settings(table)
        text = write(replace(own, provenance=()))
        text = text if with_title else text.split("\n", 1)[1]
        fold = self.markdown("\n\n".join(map(markdown, own.provenance)))
        return [
            nodes.container("", *self.markdown("\n".join([text, *map(write, other)])), classes=["measured"]),
            nodes.raw("", "<details class='provenance'><summary>How this was measured</summary>", format="html"),
            *fold,
            nodes.raw("", "</details>", format="html"),
        ]

    def missing(self, name: str) -> list[nodes.Node]:
        """The text instead of a study that was not measured."""
        study = load_study(name)
        task = study.specs[0].task
        folder = "" if task == "digits" else " --data DIR"
        return self.markdown(
            f":::{{admonition}} Not measured yet\n{study.title}. To run it:\n\n"
            f"```sh\nlossaware study run {name}{folder}\nlossaware study export {name}\n```\n:::\n"
        )


class StudyDirective(_Measured):
    """The table of a study."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """See the module."""
        table = self.table(self.arguments[0])
        return self.missing(self.arguments[0]) if table is None else self.tables(table)


class StudyPageDirective(_Measured):
    """A page: the title of a study, its table and its curves."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """See the module."""
        name = self.arguments[0]
        table = self.table(name)
        section = nodes.section(ids=[f"study-{name}"], names=[f"study-{name}"])
        section += nodes.title("", load_study(name).title)
        if table is None:
            section += self.missing(name)
        else:
            section += self.tables(table, with_title=False)
            section += curves(table, exported_in(self.folder))
        return [section]


class StudyCurvesDirective(_Measured):
    """The learning curves of a study."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """See the module."""
        table = self.table(self.arguments[0])
        return [] if table is None else curves(table, exported_in(self.folder))


class AllStudiesDirective(_Measured):
    """An overview: each study with a link to its page, and how much of it was measured."""

    def run(self) -> list[nodes.Node]:
        """See the module."""
        lines = ["| Study | Measured cells | With other settings | Seeds |", "|---|---:|---:|---:|"]
        for name in studies():
            table = self.table(name)
            title = markdown(load_study(name).title)
            if f"results/{name}" in self.env.found_docs:
                title = f"{{doc}}`{title} </results/{name}>`"
            cells = [] if table is None else [measured for measured in table.cells.values() if measured.has_results]
            changed = sum(bool(measured.changed) for measured in cells)
            seeds = sorted({len(measured.values) for measured in cells if measured.values})
            spread = "" if not seeds else str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
            total = len((table.study if table else load_study(name)).cells)
            lines.append(f"| {title} | {len(cells) - changed} of {total} | {changed or ''} | {spread} |")
        return [nodes.container("", *self.markdown("\n".join(lines)), classes=["overview"])]


class MeasuredFilesDirective(_Measured):
    """The output of benchmarks: Markdown, text, and SVG images."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """See the module."""
        folder = self.folder / self.arguments[0]
        content: list[nodes.Node] = []
        for path in sorted(folder.glob("*")):
            self.env.note_dependency(str(path))
            match path.suffix:
                case ".md":
                    content += self.markdown(path.read_text(encoding="utf-8"))
                case ".txt":
                    content.append(nodes.literal_block("", path.read_text(encoding="utf-8"), language="text"))
                case ".svg":
                    content.append(_figure(path.read_text(encoding="utf-8"), path.stem))
        return content or self.markdown(":::{admonition} Not measured yet\n" + "\n".join(self.content) + "\n:::\n")


def curves(table: StudyTable, exported: Exported) -> list[nodes.Node]:
    """A figure for each measured base, with every variant of LGA in the study."""
    groups: dict[tuple[RunSpec, Metric], dict[str, list[list[float]]]] = {}
    included: set[tuple[RunSpec, Metric]] = set()
    for cell in (measured.cell for measured in table.cells.values()):
        specs, metric = cell.specs, replace(cell.metric, at="final")
        if not specs or specs[0].lga is None or (specs[0], metric) in included:  # a table may show a run several times
            continue
        runs = [(exported.records(without_lga(spec)), exported.records(spec)) for spec in specs]
        finished = [
            [metric.curve(records) for records in pair]
            for spec, pair in zip(specs, runs, strict=True)
            if {len(records) for records in pair} == {spec.epochs}
        ]
        if not finished:
            continue
        included.add((specs[0], metric))
        without, with_lga = map(list, zip(*finished, strict=True))
        lines = groups.setdefault((without_lga(specs[0]), metric), {"without LGA": without})
        lines[_label(table.study, cell.row, cell.column)] = with_lga
    return [
        _gallery(metric, [Curves(_heading(base), of, lines) for (base, of), lines in groups.items() if of == metric])
        for metric in dict.fromkeys(metric for _, metric in groups)
    ]


def _heading(base: RunSpec) -> str:
    setting = {"task": base.task, "optimizer": base.optimizer, "lr": number(base.lr)}
    return heading_of(setting | ({"scheduler": base.scheduler} if base.scheduler else {}))


def _label(study: Study, row: Sequence[str], column: Sequence[str]) -> str:
    """The names of a cell that identify the variant of LGA, not the base."""
    places = zip((*study.file.rows, *study.file.columns), (*row, *column), strict=True)
    settings = {axis: [point.lga for point in points.values()] for axis, points in study.file.axes.items()}
    switching = {axis for axis, of in settings.items() if False in of}
    changing = {axis for axis, of in settings.items() if any(of)}
    return ", ".join(point for axis, point in places if axis in (switching or changing)) or "with LGA"


def _gallery(metric: Metric, groups: list[Curves]) -> nodes.Node:
    labels = dict.fromkeys(label for group in groups for label in group.lines)
    keys = "".join(
        f'<li style="--color: var(--series-{index % len(SERIES)})">{html.escape(label)}</li>'
        for index, label in enumerate(labels)
    )
    drawn = [
        f"<figure><figcaption>{html.escape(figure.heading)}</figcaption>{_image(figure.image)}</figure>"
        for figure in plot_curves(groups)
    ]
    caption = f"{metric.measure.capitalize()} by epoch: mean over seeds, and their range as a band."
    text = f'<p>{caption}</p><ul class="series">{keys}</ul><div class="grid">{"".join(drawn)}</div>'
    if len(drawn) > MANY:
        text = f"<details><summary>{len(drawn)} figures: {metric.measure} by epoch</summary>{text}</details>"
    return nodes.raw("", f'<div class="curves">{text}</div>', format="html")


def _image(image: Image) -> str:
    return (
        f'<picture><source srcset="{image.dark_uri}" media="(prefers-color-scheme: dark)">'
        f'<img src="{image.light_uri}" alt="{html.escape(image.description)}"></picture>'
    )


def _figure(svg: str, name: str) -> nodes.Node:
    return nodes.raw(
        "", f'<div class="curves" aria-label="{html.escape(name)}">{svg[svg.index("<svg") :]}</div>', format="html"
    )
