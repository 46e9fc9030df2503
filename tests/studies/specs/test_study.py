"""From a study's file to cells and runs."""

import json
from decimal import Decimal

import pytest

from lossaware.errors import UsageError
from lossaware.studies.specs.arms import arms_of_gamma2
from lossaware.studies.specs.comparison import comparison
from lossaware.studies.specs.run_spec import LGA_DEFAULTS, RunSpec
from lossaware.studies.specs.study import Overrides, load_study, parse_study, without_lga
from lossaware.studies.specs.study_file import Settings, parse_settings, split_points
from lossaware.studies.specs.tasks import load_task
from support.small_grid import TEXT, at


def test_cells_are_the_cross_product_in_the_order_of_the_file(grid):
    assert grid.rows == [("SGD",), ("Momentum",), ("mean",), ("spread",)]
    assert grid.columns == [(s, lr) for s in ("w/o LGA", "w/ LGA", "Ratio") for lr in ("1e-3", "1e-2")]
    assert len(grid.cells) == 24


def test_points_override_the_base_and_options_are_merged(grid):
    spec = grid.cells[at(grid, "Momentum", "w/ LGA, 1e-2")].specs[1]
    assert spec == RunSpec(
        task="digits",
        task_options=(("hidden", 8),),
        optimizer="sgd",
        optimizer_options=(("momentum", 0.9),),
        lr=1e-2,
        lga=tuple(sorted({**LGA_DEFAULTS, "gamma2": 1e-6}.items())),
        seed=1,
        epochs=4,
        batch_size=200,
    )
    assert dict(grid.cells[at(grid, "SGD", "w/ LGA, 1e-3")].specs[0].lga)["gamma2"] == 1e-5


@pytest.mark.parametrize("order", [["strategy", "lr"], ["lr", "strategy"]])
def test_without_lga_takes_precedence_over_other_axes(order):
    text = TEXT.replace('columns = ["strategy", "lr"]', f"columns = {json.dumps(order)}").split("[derived]")[0]
    for cell in parse_study(text, "grid").cells.values():
        assert all((spec.lga is None) == ("w/o LGA" in cell.column) for spec in cell.specs)


def test_a_run_has_the_key_that_compare_gives_it():
    """Both commands use one store, so both must write the same specification."""
    study = parse_study(TEXT.replace("task_options = { hidden = 8 }", ""), "grid")
    lga = {name: value for name, value in LGA_DEFAULTS.items() if name != "gamma2"}
    settings = {"task": "digits", "seeds": 2, "epochs": 4, "batch_size": 200}
    other = comparison(
        load_task("digits"), settings, optimizers=["sgd"], lrs=[1e-3], arms=arms_of_gamma2([1e-5]), lga=lga
    )
    ours = [study.cells[at(study, "SGD", column)].specs for column in ("w/o LGA, 1e-3", "w/ LGA, 1e-3")]
    assert {spec.key for specs in ours for spec in specs} == {spec.key for spec in other.specs}


def test_numbers_are_the_same_run_however_they_are_written():
    a, b = (parse_study(TEXT.replace("gamma2 = 1e-5", f"gamma2 = 1e-5, xi = {xi}"), "g").specs for xi in ("1", "1.0"))
    assert [spec.key for spec in a] == [spec.key for spec in b]


@pytest.mark.parametrize(("options", "length"), [("", 7), ("scheduler_options = { T_max = 3 }", 3)])
def test_a_cosine_ends_with_the_run_unless_its_length_is_given(options, length):
    text = TEXT.replace("seeds = 2\n", f'seeds = 2\nscheduler = "CosineAnnealingLR"\n{options}\n')
    study = parse_study(text, "grid").overridden(Overrides({}, Settings(epochs=7)))
    assert {spec.scheduler_options for spec in study.specs} == {(("T_max", length),)}


def test_a_ratio_needs_the_runs_without_lga_too(grid):
    cell = grid.cells[at(grid, "SGD", "Ratio, 1e-3")]
    assert set(cell.needed) == {*cell.specs, *map(without_lga, cell.specs)}
    only = grid.overridden(Overrides({"strategy": ("Ratio",), "algorithm": ("SGD",), "lr": ("1e-3",)}))
    assert set(only.specs) == set(cell.needed)


def test_runs_come_once_and_seed_by_seed(grid):
    specs = grid.specs
    assert len(specs) == len(set(specs)) == 2 * 2 * 2 * 2
    assert [spec.seed for spec in specs] == [0] * 8 + [1] * 8


def test_published_figures_keep_their_digits(grid):
    row = [grid.cells[("SGD",), column].published for column in grid.columns]
    assert [None if figure is None else str(figure) for figure in row] == ["90.0", "95", "91.25", None, "0.9", "0.5"]
    assert grid.cells[("mean",), ("Ratio", "1e-2")].published == Decimal("0.8")
    assert grid.cells[("Momentum",), ("Ratio", "1e-2")].published is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'optimizer = "sgd" }',
            'optimzer = "sgd" }',
            "unknown key 'axes.algorithm.SGD.optimzer'; did you mean optimizer",
        ),
        ('set = "test"', 'sett = "test"', "unknown key 'measure.sett'; did you mean set?"),
        ("[base]", "[bsae]", "unknown key 'bsae'; did you mean base?"),
        (
            'measure = { at = "ratio" }',
            'measure = { art = "ratio" }',
            "'axes.strategy.Ratio.measure.art'; did you mean at?",
        ),
        ('set = "test"', 'set = "tset"', "measure.set: input should be 'train' or 'test', got 'tset'"),
        ("epochs = 4", "epochs = 0", "base.epochs: input should be greater than or equal to 1, got 0"),
        ("epochs = 4", 'epochs = "4"', "base.epochs: input should be a valid integer, got '4'"),
        ("epochs = 4", "", "SGD, w/o LGA, 1e-3: epochs is set neither in [base] nor at a point"),
        ("seeds = 2", "seeds = 0", "base.seeds: must be a number of seeds, at least 1, or a list"),
        ("seeds = 2", "seeds = []", "base.seeds: must be a number of seeds"),
        ("seeds = 2", "seeds = [1, 1]", "base.seeds: must not name a seed twice"),
        ("seeds = 2", "seeds = [-1]", "base.seeds: must be a number of seeds"),
        ("lr = 1e-3 ", "lr = -1 ", "axes.lr.1e-3.lr: input should be greater than 0, got -1"),
        ("lr = 1e-3 ", "lr = nan ", "axes.lr.1e-3.lr: "),
        ("lga = false", "lga = true", "axes.strategy.w/o LGA.lga: must be false, or a table of LGA's arguments"),
        ("gamma2 = 1e-6", "gamma2 = [1e-6]", "axes.lr.1e-2.lga.gamma2: must be a number, a text, true or false, got"),
        ('rows = ["algorithm"]', 'rows = ["algoritm"]', "unknown axis 'algoritm'; did you mean algorithm?"),
        ('rows = ["algorithm"]', "rows = []", "axis 'algorithm' must appear once in rows and columns"),
        ('rows = ["algorithm"]', 'rows = ["algorithm", "lr"]', "axis 'lr' must appear once in rows and columns"),
        ("SGD = [", "SDG = [", "published does not have a row 'SDG'; did you mean SGD?"),
        ("0.9, 0.5]", "0.9]", "published.SGD must list 6 figures, got 5"),
        ("90.0, 95,", '90.0, "95",', "published.SGD must list numbers, got '95'"),
        ("90.0, 95,", "90.0, inf,", "published.SGD must list finite numbers, or nan for missing ones, got Infinity"),
        ('axis = "algorithm"', 'axis = "algorthm"', "unknown axis 'algorthm'; did you mean algorithm?"),
        ("{ mean =", "{ SGD =", "'SGD' is both a point and derived"),
        ('"deviation"', '"spread"', "derived.points.spread: input should be 'mean' or 'deviation', got 'spread'"),
        ('title = "A small grid"', "", "'title' is missing"),
        ("[base]", "[base", "not valid TOML"),
        ('title = "A small grid"', f"title = {'[' * 5000}{']' * 5000}", "nested too deeply"),
        ("lga = { gamma2 = 1e-5 }", "lga = false", "axes.lr.1e-2.lga has no effect, as base.lga = false"),
        ('name = "accuracy"', "", "measure needs a set (train or test) and a name"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(old, new, message):
    assert TEXT.count(old) >= 1
    with pytest.raises(UsageError) as error:
        parse_study(TEXT.replace(old, new, 1), "grid", source="my/grid.toml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("study my/grid.toml: ")


def test_a_study_that_does_not_exist(tmp_path):
    with pytest.raises(UsageError, match=r"unknown study 'table2'; did you mean table02"):
        load_study("table2")
    with pytest.raises(UsageError, match="there is no such file"):
        load_study(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="study file"):
        load_study(str(tmp_path / "bytes.toml"))


def test_overrides_go_over_everything(grid):
    smaller = grid.overridden(Overrides({}, Settings(seeds=[7], epochs=1, lga={"gamma2": 1e-3})))
    for spec in smaller.specs:
        assert (spec.seed, spec.epochs) == (7, 1)
        assert spec.lga is None or dict(spec.lga)["gamma2"] == 1e-3
    assert any(spec.lga is None for spec in smaller.specs)


def test_arguments_of_lga_do_not_add_lga_to_runs_without():
    text = TEXT.replace("lga = { gamma2 = 1e-5 }", "").replace(", lga = { gamma2 = 1e-6 }", "")
    text = text.replace("{ lga = false }", "{}").replace('"w/ LGA" = {}', '"w/ LGA" = { lga = {} }')
    study = parse_study(text, "grid").overridden(Overrides({}, parse_settings({"lga.gamma2": "1e-3"})))
    assert all(spec.lga is None for spec in study.cells[at(study, "SGD", "w/o LGA, 1e-3")].specs)
    assert all(dict(spec.lga)["gamma2"] == 1e-3 for spec in study.cells[at(study, "SGD", "w/ LGA, 1e-3")].specs)


@pytest.mark.parametrize("name", ["w/ LGA", "W/ lga", "w lga"])
def test_points_are_found_however_they_are_written(grid, name):
    smaller = grid.overridden(Overrides({"Strategy": (name,)}))
    assert smaller.overrides.only == {"strategy": ("w/ LGA",)}
    assert all(spec.lga is not None for spec in smaller.specs)


def test_unknown_axes_and_points(grid):
    with pytest.raises(UsageError, match="axis 'task' does not exist; known: algorithm, lr, strategy"):
        grid.overridden(Overrides({"task": ("mnist",)}))
    for lr in ("1e1", "1e+3", "13", "1e-30"):  # signs are not punctuation here
        with pytest.raises(UsageError, match=r"point of axis 'lr' '.*' does not exist"):
            grid.overridden(Overrides({"lr": (lr,)}))
    with pytest.raises(UsageError, match="point of axis 'algorithm' 'sdg' does not exist; did you mean SGD"):
        grid.overridden(Overrides({"algorithm": ("sdg",)}))


def test_overrides_survive_being_written_down(grid):
    overrides = Overrides({"lr": ("1e-3",)}, parse_settings({"epochs": 2, "lga.gamma2": "1e-7", "hidden": "4"}))
    assert Overrides.from_plain(json.loads(json.dumps(overrides.to_plain()))) == overrides
    assert Overrides().to_plain() == {}


def test_a_comma_within_the_name_of_a_point_does_not_separate():
    points = ["to the letter", "per epoch", "per epoch, natural log", "SGD, auto"]
    assert split_points("to the letter,per epoch", points) == ("to the letter", "per epoch")
    assert split_points(" per epoch,natural log , SGD, auto", points) == ("per epoch, natural log", "SGD, auto")
    assert split_points("per epoch,to the letter", points) == ("per epoch", "to the letter")
    assert split_points("SGD, outo", points) == ("SGD", "outo")  # which do not have a point, and are refused
    for name in ("readings", "auto-peers"):
        study = load_study(name)
        for axis, names in study.file.axes.items():
            assert split_points(",".join(names), names) == tuple(names)
            study.overridden(Overrides({axis: split_points(",".join(names), names)}))


def test_settings_as_on_a_command_line():
    settings = {"batch_size": "32", "lga.lower_bound.log_base": "2.5", "pad": "0", "task_options.features": "real"}
    assert parse_settings({"seeds": 3, **settings}) == Settings(
        seeds=3, batch_size=32, lga={"lower_bound.log_base": 2.5}, task_options={"pad": 0, "features": "real"}
    )
    for wrong, message in (({"batch_size": "few"}, "batch_size"), ({"precision": "fp8"}, "'fp32' or 'bf16'")):
        with pytest.raises(UsageError, match=f"--set .*{message}"):
            parse_settings(wrong)


def test_notes_and_figures_do_not_change_the_digest_of_a_study(grid):
    other = parse_study(TEXT.replace("91.25", "91.26").replace("A small grid", "Another title"), "grid")
    assert other.digest == grid.digest
