"""The thirteen published tables: every figure is as printed, and belongs to the correct runs."""

import dataclasses
import hashlib
import inspect
from collections import Counter
from decimal import Decimal

import pytest

from lossaware import LGA
from lossaware.agreement import Agreement
from lossaware.gamma2 import AutoGamma2, BackOff
from lossaware.studies.specs.run_spec import AGREEMENT_DEFAULTS, LGA_DEFAULTS, SELF_SET_DEFAULTS, lga_options
from lossaware.studies.specs.study import Cell, Overrides, Study, load_study, studies
from lossaware.studies.specs.tasks import load_task, tasks
from lossaware.studies.training.rehearse import check

# Figures in each table, their sum, and the SHA-256 (16 digits) of the table with one line per row and spaces between:
# counted, added up and computed from the paper's page, not from the study files. The first two can be followed by hand,
# the last one detects exchanged figures.
TABLES = {
    "table01": (42, "3161.18", "04bea0563d7f76f1"),
    "table02": (56, "4731.68", "51424578f9221d54"),
    "table03": (63, "3171.71", "4d706b1e73645928"),
    "table04": (15, "430.49", "38072e1749fe5313"),
    "table05": (72, "6116.40", "d1c309b75a93f6d3"),
    "table06": (42, "3187.54", "9a5bd62bfb40dd5c"),
    "table07": (42, "3180.70", "87c4436d2246258d"),
    "table08": (56, "4072.88", "c90e5f9eff3ed125"),
    "table09": (21, "4.519", "deef5549a9bffebb"),
    "table10": (18, "140.13", "eeba805ea7720386"),
    "table11": (28, "93.772", "30ae39be2461497a"),
    "table12": (28, "9.999", "2310b8cb3f1e6b8e"),
    "table13": (36, "11.0617", "bd56f6036df0a96c"),
}
ALGORITHMS = ("SGD", "Momentum", "ASGD", "RMSprop", "Adam", "Adamax", "Adadelta")
STRATEGIES = ("w/o LGA", "w/ LGA")


def study(number: int) -> Study:
    return load_study(f"table{number:02}")


def published(number: int, row: tuple[str, ...], column: tuple[str, ...]) -> str:
    return str(study(number).cells[row, column].published)


def figures(name: str) -> list[Decimal]:
    return [cell.published for cell in load_study(name).cells.values() if cell.published is not None]


def published_lines(table: Study) -> str:
    """The published figures as on the page."""
    rows = [[table.cells[row, column].published for column in table.columns] for row in table.rows]
    return "\n".join(" ".join(map(str, row)) for row in rows if any(figure is not None for figure in row))


def test_the_package_has_the_thirteen_tables_and_its_own_studies() -> None:
    assert list(studies()) == [*TABLES, "auto-parts", "auto-peers", "auto", "peers", "protocols", "readings", "robust"]


@pytest.mark.parametrize("name", TABLES)
def test_no_figure_is_missing_or_changed(name: str) -> None:
    count, total, digest = TABLES[name]
    assert len(figures(name)) == count
    assert sum(figures(name)) == Decimal(total)
    assert hashlib.sha256(published_lines(load_study(name)).encode()).hexdigest()[:16] == digest


def test_519_figures_in_all() -> None:
    assert sum(len(figures(name)) for name in TABLES) == 519


@pytest.mark.parametrize(
    ("number", "row", "column", "figure"),
    [
        (1, "SGD", "MNIST, w/o LGA", "94.95"),
        (1, "Adadelta", "CIFAR-100, w/ LGA", "23.07"),
        (2, "SGD", "w/o LGA, 1e-4", "28.06"),
        (2, "SGD", "w/ LGA, 1e-4", "86.44"),
        (2, "Adadelta", "w/ LGA, 1e-1", "99.57"),
        (3, "MNIST, Ratio", "ASGD", "0.9"),
        (3, "CIFAR10, w/o LGA", "RMSprop", "85.57"),
        (3, "CIFAR100, w/ LGA", "ASGD", "40.06"),
        (4, "Ratio", "Momentum", "0.14"),
        (4, "w/ LGA", "Adammax", "26.30"),
        (5, "Adadelta", "ExponentialLR, w/ LGA", "99.44"),
        (5, "σ", "StepLR, w/o LGA", "16.64"),  # noqa: RUF001
        (6, "ASGD", "CIFAR-100, w/ LGA", "40.23"),
        (7, "Adam", "CIFAR-100, w/ LGA", "47.98"),
        (8, "Adam", "w/o LGA, 1e-4", "85.9"),
        (8, "Momentum", "w/o LGA, 1e-2", "89.28"),
        (9, "w/o LGA", "ASGD", "0.058"),
        (10, "Ratio", "Adam", "0.96"),
        (11, "loss_cls, w/o LGA", "Adadelta", "52.314"),
        (11, "loss_rot, w/ LGA", "RMSprop", "0.046"),
        (12, "CIFAR-10, w/ LGA", "Adamax", "0.560"),
        (13, "Mnist, LGA(momentum)", "RMSprop", "0.1300"),
        (13, "CIFAR-10, LGA", "Adadelta", "0.9633"),
    ],
)
def test_figures_are_in_the_papers_cells(number: int, row: str, column: str, figure: str) -> None:
    assert published(number, tuple(row.split(", ")), tuple(column.split(", "))) == figure


def test_figures_printed_twice_agree_except_for_known_misprints() -> None:
    tables = {number: study(number) for number in (1, 2, 3, 5, 7, 8)}

    def figure(number: int, row: tuple[str, ...], column: tuple[str, ...]) -> Decimal | None:
        return tables[number].cells[row, column].published

    differing = set()
    for name in ALGORITHMS:
        for strategy in STRATEGIES:
            mnist = figure(1, (name,), ("MNIST", strategy))
            if figure(2, (name,), (strategy, "1e-3")) != mnist:
                differing.add((2, name, strategy))
            if figure(5, (name,), ("ReduceLROnPlateau", strategy)) != mnist:
                differing.add((5, name, strategy))
            if figure(8, (name,), (strategy, "1e-3")) != figure(7, (name,), ("CIFAR-10", strategy)):
                differing.add((8, name, strategy))
        for in_table3, in_table7 in (("MNIST", "MNIST"), ("CIFAR10", "CIFAR-10"), ("CIFAR100", "CIFAR-100")):
            if figure(3, (in_table3, "w/o LGA"), (name,)) != figure(7, (name,), (in_table7, "w/o LGA")):
                differing.add((3, name, in_table3))
    assert differing == {
        (2, "SGD", "w/o LGA"),
        (2, "Adam", "w/o LGA"),
        (2, "Adam", "w/ LGA"),
        (2, "Adamax", "w/o LGA"),
        (2, "RMSprop", "w/ LGA"),
        (3, "RMSprop", "CIFAR10"),
        (5, "Momentum", "w/ LGA"),
        (5, "RMSprop", "w/o LGA"),
        (5, "Adam", "w/ LGA"),
        (8, "Adadelta", "w/o LGA"),
    }
    for number, name, _ in differing:
        assert any(name in note for note in tables[number].file.notes), (number, name)


def test_table_5_has_the_mean_and_deviation_of_all_columns_except_one() -> None:
    from statistics import fmean, pstdev

    table = study(5)
    wrong = []
    for column in table.columns:
        values = [float(table.cells[(name,), column].published or "nan") for name in ALGORITHMS]
        for name, value in (("μ", fmean(values)), ("σ", pstdev(values))):  # noqa: RUF001
            cell = table.cells[(name,), column]
            assert cell.derived
            assert len(cell.derived[1]) == len(ALGORITHMS)
            if abs(float(cell.published or "nan") - value) > 0.0051:
                wrong.append((column, name))
    assert wrong == [(("ExponentialLR", "w/ LGA"), "μ"), (("ExponentialLR", "w/ LGA"), "σ")]  # noqa: RUF001


def test_runs_that_several_tables_need_are_the_same_runs() -> None:
    shared = [set(study(number).specs) for number in (1, 3, 6, 7)]
    assert all(specs == shared[0] for specs in shared)
    assert len(shared[0]) == 3 * 7 * 2 * 5
    mnist = {spec for spec in shared[0] if spec.task == "mnist"}
    assert mnist <= set(study(2).specs)
    assert {spec for spec in study(13).specs if spec.task == "mnist" and spec in mnist}
    assert {spec for spec in shared[0] if spec.task == "cifar10"} <= set(study(8).specs)
    assert {spec for spec in load_study("readings").specs if spec.lga is None} <= set(study(2).specs)


def test_protocols_change_only_the_network_and_have_the_same_published_figures() -> None:
    """Its runs and figures are those of Table 2, except for Adam, which is a misprint there."""
    grid = load_study("protocols")
    assert set(grid.overridden(Overrides({"protocol": ("default",)})).specs) <= set(study(2).specs)
    known = {cell.specs[0]: cell.published for cell in study(2).cells.values()}
    adam = study(1).cells[("Adam",), ("MNIST", "w/o LGA")].published
    default = {cell.column: cell for cell in grid.cells.values() if cell.row == ("default",)}
    for cell in grid.cells.values():
        base = default[cell.column]
        assert [dataclasses.replace(spec, task_options=()) for spec in cell.specs] == [*base.specs[: len(cell.specs)]]
        assert cell.published == (adam if cell.column == ("Adam 1e-3",) else known[base.specs[0]])
        assert load_task("mnist", cell.specs[0].task_options).name == "mnist"
    assert len({cell.specs[0].task_options for cell in grid.cells.values()}) == len(grid.rows)


@pytest.mark.parametrize("name", [*TABLES, "readings"])
def test_runs_are_those_of_section_4(name: str) -> None:
    grid = load_study(name)
    gamma2 = {"cifar100": 1e-9, "tinyimagenet": 1e-10}
    batch = {"mnist": 64, "cifar10": 128, "cifar100": 128, "tinyimagenet": 16}
    epochs = {"mnist": 20, "cifar10": 100, "cifar100": 100, "tinyimagenet": 100}
    for cell in grid.cells.values():
        for spec in cell.specs:
            assert spec.batch_size == batch.get(spec.task, spec.batch_size)
            assert spec.epochs == epochs.get(spec.task, 50 if spec.task in FIFTY else spec.epochs)
            if spec.lga is not None:
                lga = dict(spec.lga)
                assert (lga["eps"], lga["xi"], lga["backoff"]) == (0.1, 0.01, 0.1)
                assert lga["gamma2"] == gamma2.get(spec.task, 1e-8)
            assert (spec.lga is None) == without(cell)
            assert spec.lr == expected_lr(cell, spec.task)
            assert spec.optimizer == optimizer(cell, spec.optimizer)
            assert not spec.optimizer_options
            assert (spec.scheduler is None) == (name != "table05")
        if cell.specs:
            assert len(cell.specs) == {"table04": 1, "readings": 2}.get(name, 5)


FIFTY = ("segmentation", "grounding", "autoeval")


def without(cell: Cell) -> bool:
    return bool({"w/o LGA", "without LGA"} & {*cell.row, *cell.column})


def expected_lr(cell: Cell, task: str) -> float:
    rates = [name for name in (*cell.row, *cell.column) if name.startswith("1e-")]
    return float(rates[0]) if rates else 1e-2 if task == "tinyimagenet" else 1e-3


def optimizer(cell: Cell, otherwise: str) -> str:
    names = [name for name in (*cell.row, *cell.column) if name in (*ALGORITHMS, "Adammax")]
    return names[0].lower().replace("adammax", "adamax") if names else otherwise


def test_the_schedulers_of_table_5_have_the_arguments_that_its_note_names() -> None:
    schedulers = {
        (cell.column[0], spec.scheduler, spec.scheduler_options)
        for cell in study(5).cells.values()
        for spec in cell.specs
    }
    assert schedulers == {
        ("CosineAnnealingLR", "CosineAnnealingLR", (("T_max", 20),)),
        ("ExponentialLR", "ExponentialLR", (("gamma", 0.9),)),
        ("ReduceLROnPlateau", "ReduceLROnPlateau", ()),
        ("StepLR", "StepLR", (("gamma", 0.1), ("step_size", 5))),
    }


def test_the_values_of_cells() -> None:
    def metrics(number: int) -> Counter[tuple[str, str, str, bool]]:
        quantities = [cell.metric for cell in study(number).cells.values()]
        return Counter((q.set, q.name, q.at, q.percent) for q in quantities)

    assert metrics(1) == {("train", "accuracy", "final", True): 42}
    assert metrics(3) == {
        ("test", "accuracy", "final", True): 21,
        ("test", "accuracy", "reached", True): 21,
        ("test", "accuracy", "ratio", False): 21,
    }
    assert metrics(5) == {("train", "accuracy", "final", True): 72}
    assert metrics(6) == {("test", "accuracy", "best", True): 42}
    assert metrics(7) == {("test", "accuracy", "final", True): 42}
    assert metrics(8) == {("test", "accuracy", "final", True): 56}
    assert metrics(9) == {("train", "loss", "final", False): 14, ("train", "loss", "ratio", False): 7}
    assert metrics(10) == {("train", "loss", "final", False): 12, ("train", "loss", "ratio", False): 6}
    assert {(set_, name) for set_, name, _, _ in metrics(11)} == {
        ("train", "loss_cls"),
        ("train", "loss_rot"),
        ("train", "accuracy"),
        ("train", "accuracy_rot"),
    }
    assert not any(cell.metric.higher_is_better for number in (9, 10, 12, 13) for cell in study(number).cells.values())


def test_the_other_estimates_of_the_lower_bound() -> None:
    bounds = {
        (cell.row[1], dict(spec.lga or ())["lower_bound"]) for cell in study(13).cells.values() for spec in cell.specs
    }
    assert bounds == {("LGA(average)", "average"), ("LGA(momentum)", "momentum"), ("LGA", "progressive")}


@pytest.mark.parametrize("name", [*TABLES, "readings"])
def test_every_run_can_be_set_up(name: str) -> None:
    """Optimizer, scheduler and LGA of every kind of run exist and take their arguments, and so does the task."""
    specs = load_study(name).specs
    for name_of_task in {spec.task for spec in specs}:
        assert name_of_task in tasks()
        task = load_task(name_of_task)
        its = [spec for spec in specs if spec.task == name_of_task]
        assert {(spec.epochs, spec.batch_size) for spec in its} == {(task.epochs, task.batch_size)}
        assert {dict(spec.lga)["gamma2"] for spec in its if spec.lga is not None} == {task.gamma2}
    # A small network replaces the large ones: only optimizer and scheduler are tested here.
    check([spec for spec in specs if spec.seed == 0], load_task("digits"))


def test_written_out_defaults_are_those_of_lga() -> None:
    parameters = inspect.signature(LGA).parameters
    for options, strategy in (
        (LGA_DEFAULTS, BackOff()),
        (SELF_SET_DEFAULTS, AutoGamma2()),
        (AGREEMENT_DEFAULTS, Agreement()),
    ):
        defaults = {name: parameter.default for name, parameter in parameters.items()} | strategy.defaults._asdict()
        defaults |= {f"gamma2.{name}": value for name, value in dataclasses.asdict(strategy).items()}
        assert {name: defaults[name] for name in options} == {**options, "gamma2": defaults["gamma2"]}
    constants = {f"gamma2.{field.name}" for field in dataclasses.fields(AutoGamma2)}
    assert constants - {"gamma2.mean_dtype"} <= set(SELF_SET_DEFAULTS)  # added later, like the upper bound below
    assert lga_options({"gamma2": "auto", "gamma2.mean_dtype": None}) == lga_options({"gamma2": "auto"})
    assert lga_options({"gamma2": "auto", "gamma2.mean_dtype": "bfloat16"}) != lga_options({"gamma2": "auto"})
    assert {f"gamma2.{field.name}" for field in dataclasses.fields(Agreement)} <= set(AGREEMENT_DEFAULTS)
    assert LGA_DEFAULTS["gamma2"] == parameters["gamma2"].default
    numeric = {name for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    # The upper bound was added later: its default is omitted, so that earlier runs keep their keys.
    assert set(LGA_DEFAULTS) == numeric - {"process_group", "steps_per_epoch", "upper_bound"}
    assert lga_options({"upper_bound": "first"}) == lga_options({})
    assert lga_options({"upper_bound": "running"}) != lga_options({})
