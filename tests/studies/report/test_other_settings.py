"""Cells with other settings are in a separate table."""

from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.report.other_settings import split_by_settings
from lossaware.studies.report.study_table import study_table
from lossaware.studies.specs.study import Overrides
from support.small_grid import SHORT, Known, fill


def contents(table):
    return {
        row.names[0]: {", ".join(head): cell.content for head, cell in zip(table.heads, row.cells, strict=True)}
        for row in table.rows
    }


def test_figures_of_other_settings_are_apart_from_the_published_ones(grid):
    known = Known()
    fill(grid.overridden(Overrides({"algorithm": ("SGD",)})), known)
    fill(grid.overridden(SHORT), known)
    table = tabulate(grid, known, [SHORT])
    whole = contents(study_table(table))
    own, other = split_by_settings(table)

    assert contents(own)["SGD"] == whole["SGD"]
    assert set(contents(own)["Momentum"].values()) == {"not run"}
    assert [cell.published for cell in own.rows[0].cells][:2] == ["90.0", "95"]
    assert not any("epochs = 2" in line for line in (*own.legend, *own.head))

    assert other.title == "Measured under other settings"
    assert contents(other)["Momentum"] == whole["Momentum"]
    assert "SGD" not in contents(other)
    assert not any(cell.published or cell.difference or cell.sign for row in other.rows for cell in row.cells)
    assert any("epochs = 2" in line for line in (*other.legend, *other.head))


def test_a_study_of_one_kind_stays_one_table(grid):
    own, short = Known(), Known()
    fill(grid, own)
    fill(grid.overridden(SHORT), short)
    for known in (own, short, Known()):
        table = tabulate(grid, known, [SHORT])
        assert split_by_settings(table) == [study_table(table)]
