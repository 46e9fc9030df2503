"""The page of all results, and the short one in ``results/``."""

import hashlib
import json
import re
import shutil
from collections import Counter
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Canvas
from matplotlib.image import imread

from lossaware.errors import Note, UsageError
from lossaware.studies.analysis.collect import measurements
from lossaware.studies.paper.figures import figure2
from lossaware.studies.report import artifacts
from lossaware.studies.report import results_html as results_report
from lossaware.studies.report import results_markdown as results_page
from lossaware.studies.report.plot import Plot
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.seal import sealed
from lossaware.studies.specs.study import Overrides, load_study, studies
from lossaware.studies.specs.study_file import Settings
from lossaware.studies.store.database import Store
from lossaware.studies.store.folder import Folder, Launch
from support.command_line import lossaware
from support.pages import Tags, check_fits, check_self_contained, chromium, in_browser, pictures

ROOT = Path(__file__).parents[3]
MADE_WITH = {"date": "2026-01-02T03:04:05", "commit": "0123456789ab", "command": "lossaware study run table01"}


def made_up(spec: RunSpec) -> list[EpochRecord]:
    """With LGA the score is higher by ten points, in each seed by a little more or less."""
    accuracy = 0.8 + (spec.lga is not None) * (0.1 + 0.002 * spec.seed) + 0.001 * spec.seed
    return [
        EpochRecord(
            epoch, {"loss": 1 / epoch, "accuracy": accuracy}, {"loss": 2 / epoch, "accuracy": accuracy}, None, 1.0
        )
        for epoch in range(1, spec.epochs + 1)
    ]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: table 1 for two optimizers and three seeds; table 2 at two epochs, of which one run is not finished."""
    folder = Folder(tmp_path_factory.mktemp("out"))
    first = load_study("table01").overridden(
        Overrides({"task": ("MNIST",), "algorithm": ("SGD", "Adam")}, Settings(seeds=3))
    )
    short = load_study("table02").overridden(
        Overrides({"algorithm": ("Momentum",), "lr": ("1e-2",)}, Settings(epochs=2, seeds=1))
    )
    with Store(folder.database) as store:
        for study in (first, short):
            folder.note(Launch.now(study))
            for spec in study.specs:
                store.insert_run(spec, made_up(spec), MADE_WITH)
        unfinished = next(spec for spec in load_study("table02").specs if spec.optimizer == "rmsprop")
        store.begin(unfinished)
        store.record(unfinished, made_up(unfinished)[0])
    return folder.path


def line(canvas: Canvas) -> None:
    canvas.subplots().plot([0, 1], [0, 1])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures: figure 1, and one that no command of ours is known to make."""
    folder = tmp_path_factory.mktemp("results")
    for name, what in (("figure01", "Trajectories & <shares>"), ("mine", "Something else")):
        rows = [{"gamma2": 1e-8, "share": 0.25, "base": "<momentum>"}, {"gamma2": 0.1, "share": 1 / 3, "base": "b"}]
        artifacts.save(folder, name, tables={name: rows}, plot=Plot(line, (3, 2), what), settings={})
    return folder


@pytest.fixture(scope="module")
def page(out: Path, results: Path) -> str:
    with measurements(out, results) as results_of:
        return results_report.render(results_of, results, figure2)


def section(page: str, name: str) -> str:
    """The section of a study or plot, without inner sections."""
    match = re.search(rf'<section id="{name}".*?</section>', page, flags=re.DOTALL)
    assert match, name
    return match[0]


def words(html: str) -> str:
    """The visible text."""
    without_svg = re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", without_svg))).strip()


def row(html: str, name: str) -> list[str]:
    """The cells of a table's row, as texts."""
    html_row = next(part for part in re.findall(r"<tr>.*?</tr>", html, flags=re.DOTALL) if f">{name}</th>" in part)
    return [words(cell) for cell in re.findall(r"<td.*?</td>", html_row, flags=re.DOTALL)]


def test_the_page_is_whole_and_needs_nothing_from_outside(page: str) -> None:
    check_self_contained(page)
    tags = Tags(page)
    names = [attributes["id"] for _, attributes in tags.elements if "id" in attributes]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    links = [attributes["href"][1:] for tag, attributes in tags.elements if tag == "a"]
    assert set(links) <= set(names)
    assert set(studies()) | {"figure01", "figure02", "theory", "mine", "agreement", "effects"} <= set(links)
    for _, attributes in tags.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name) in {None, *names}


def test_headings_go_down_by_one_and_tables_have_names(page: str) -> None:
    tags = Tags(page).elements
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    for tag, attributes in tags:
        if tag == "th":
            assert attributes.get("scope") in {"col", "row", "colgroup", "rowgroup"}
        if tag == "table":
            assert "aria-label" in attributes or "aria-labelledby" in attributes
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0", "who has no mouse scrolls by keys"
        if tag == "img":
            assert attributes["alt"]


def test_a_cell_has_measured_published_difference_interval_and_verdict(page: str) -> None:
    first = section(page, "table01")
    without, with_, *others = row(first, "SGD")
    # Seeds 80.0, 80.1, 80.2 and 90.0, 90.3, 90.6; t(0.975, 2) = 4.303; 4.303 * 0.1 / sqrt(3) = 0.25.
    assert without == "80.10 ± 0.25 published ≠ 94.95 (−14.85)"
    assert with_ == "90.30 ± 0.75 published ≠ 95.95 (−5.65) helps"
    assert others == [f"not run published {figure}" for figure in ("81.72", "83.40", "31.76", "31.77")]
    assert row(first, "Momentum")[0] == "not run published 98.98"
    text = words(first)
    assert "Overridden: seeds = 3." in text
    assert "12 runs: 2026-01-02, commit 0123456789ab. Command: lossaware study run table01" in text
    assert "Not run: 38 of 42 cells." in text


def test_overrides_are_shown_above_the_table_and_not_compared(page: str) -> None:
    second = section(page, "table02")
    cells = row(second, "Momentum")
    assert cells[1] == "80.00 b published 99.51"
    assert "b: epochs = 2, seeds = 1" in words(second)
    assert row(second, "RMSprop")[2] == "not run published 99.59", "a run that is not finished is not shown"


def test_every_study_has_a_place_and_says_how_to_run_it(page: str) -> None:
    for name in studies():
        html = section(page, name)
        assert load_study(name).title in unescape(html)
        published = sum(cell.published is not None for cell in load_study(name).cells.values())
        assert html.count('<span class="published">') == published
    assert "Not measured yet. To run it: lossaware study run table08 --data DIR" in words(section(page, "table08"))
    assert "lossaware study run peers" in words(section(page, "peers"))


def test_pictures_and_their_figures(page: str, results: Path) -> None:
    figure = section(page, "figure01")
    assert 'style="--width: 216.0"' in figure
    assert 'alt="Trajectories &amp; &lt;shares&gt;"' in figure
    assert pictures(figure) == [(results / "figure01.svg").read_text()]
    assert pictures(figure, "srcset") == [(results / "figure01-dark.svg").read_text()]
    assert row(figure, "1e-08") == ["0.25", "<momentum>"]
    assert row(figure, "0.1") == ["0.33333", "b"]
    losses = section(page, "figure02")
    assert pictures(losses)[0].count(">not run</text>") == 4
    assert "not run: Momentum, ASGD, RMSprop, Adamax," in pictures(losses)[0]
    assert "Not made: lossaware theory" in words(section(page, "theory"))
    assert "SGD, w/ LGA" in pictures(section(page, "table02"))[0], "over its learning rates"
    assert "<svg" not in page
    assert len(pictures(section(page, "mine"))) == 1


def test_counts_are_those_of_the_runs(page: str) -> None:
    agreement, effects = section(page, "agreement"), section(page, "effects")
    assert row(agreement, "Table 1") == ["42", "4", "3", "0", "4", "0.2", "0", "0", "0"]
    assert row(effects, "Table 1") == ["2", "2", "0", "0", "0", "0", "21 (19 / 0 / 2)"]
    assert row(effects, "Table 2, overridden: epochs = 2") == ["1", "0", "0", "0", "0", "1 (1 / 0 / 0)", "0"]
    assert "In the 188 pairs of the paper" in words(effects)


@in_browser
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_page_is_drawn_in_both_modes(page: str, tmp_path: Path, mode: str) -> None:
    (tmp_path / "page.html").write_text(page)
    scheme = {"dark": 0, "light": 1}[mode]
    options = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1400,4000")
    chromium((tmp_path / "page.html").as_uri(), tmp_path / "profile", *options, f"--screenshot={tmp_path / 'shot.png'}")
    shot = imread(tmp_path / "shot.png")[..., :3]
    ground = shot[5, 5]
    assert (ground > 0.9).all() if mode == "light" else (ground < 0.2).all()
    assert 0.01 < (abs(shot - ground).max(axis=-1) > 0.3).mean() < 0.3


@in_browser
def test_the_page_fits_every_width_and_wide_tables_scroll_in_their_boxes(page: str, tmp_path: Path) -> None:
    check_fits(page, tmp_path, scrolling=".scroll")


@in_browser
def test_a_long_name_of_a_row_takes_no_room_from_the_counts(page: str, tmp_path: Path) -> None:
    name = "Table 2, overridden: " + ", ".join(f"task_options.train_examples = {n}" for n in range(1000, 1012))
    page = re.sub(r"Table 2, overridden: [^<]*", name, page)
    script = """<p id="measured"></p><script>
        const boxes = [...document.querySelectorAll("#effects .scroll, #agreement .scroll")];
        measured.textContent = boxes.map((box) => box.scrollWidth - box.clientWidth).join(" ");</script>"""
    page = re.sub("<meta http-equiv[^>]*>", "", page)  # which lets no script run
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{script}</body>"))
    browser = chromium((tmp_path / "page.html").as_uri(), tmp_path / "profile", "--dump-dom", "--window-size=1280,900")
    assert name in browser.stdout
    assert re.findall(r'<p id="measured">([^<]+)</p>', browser.stdout) == ["0 0"]


# --- pictures that come from files ----------------------------------------------------------------------------------


HOSTILE = {
    "script": "<script>document.title = 'owned'</script>",
    "event": '<g onload="alert(1)"/>',
    "link": '<image href="https://example.org/x.png"/><use href="https://example.org/a.svg#b"/>',
    "url": "<style>path{fill:URL(https://example.org)}</style>",
    "escaped": r"<style>path{fill:u\72l(https://example.org)}</style>",
    "import": "<style>@IMPORT 'https://example.org/x.css';</style>",
    "image-set": "<style>path{background:image-set('https://example.org/x.png' 1x)}</style>",
    "text": '<style>h1::after{content:"LGA HELPS EVERYWHERE"}</style>',
    "position": '<g style="position:fixed;inset:0;background:red"/><style>svg{position:fixed;z-index:9}</style>',
    "desc": "<desc><style>h1{display:none}</style></desc>",
    "html": '<foreignObject><h1 xmlns="http://www.w3.org/1999/xhtml">owned</h1></foreignObject>',
    "end": '<title>&lt;/svg&gt;</title><desc>"&gt;&lt;/section&gt;&lt;h1&gt;owned</desc>',
}


def with_picture(results: Path, folder: Path, change: tuple[str, str]) -> Path:
    """A copy of the results with another picture, as one who wants it so would write it: with its digest."""
    shutil.copytree(results, folder)
    path = folder / "figure01.svg"
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(UsageError, match=r"figure01\.svg: this file does not match figure01\.json"):
        artifacts.load(folder)
    description = folder / "figure01.json"
    content = json.loads(description.read_text())
    content["files"]["figure01.svg"] = hashlib.sha256(path.read_bytes()).hexdigest()
    description.write_text(json.dumps(sealed(content)))
    return path


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_picture_from_a_file_stays_inside_an_image(results: Path, tmp_path: Path, hostile: str, page: str) -> None:
    path = with_picture(results, tmp_path / "results", ("<defs>", f"{hostile}<defs>"))
    with measurements(None, path.parent) as results_of:
        html = results_report.render(results_of, path.parent, figure2)
    check_self_contained(html)
    assert pictures(section(html, "figure01")) == [path.read_text()]
    assert hostile in path.read_text()
    without = re.sub(r'src(set)?="data:image/svg[^"]*"', "", html)
    assert "owned" not in without
    assert "example.org" not in without
    assert re.findall(r"<style.*?</style>", without, flags=re.DOTALL) == re.findall(
        r"<style.*?</style>", page, flags=re.DOTALL
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("</svg>", ""), "not a picture (unclosed token"),
        (("<svg", "<html"), "not a picture ("),
        (("<svg", '<!DOCTYPE svg [<!ENTITY a "b">]><svg'), "not a picture (it has a DOCTYPE"),
        (("</svg>", "</svg>\0"), "not a picture (not well-formed"),
    ],
    ids=["cut", "html", "entities", "zero"],
)
def test_a_file_that_is_not_a_picture_is_refused(results: Path, tmp_path: Path, change, message) -> None:
    path = with_picture(results, tmp_path / "results", change)
    with pytest.raises(UsageError, match=rf"figure01\.svg: {re.escape(message)[:14]}"):
        artifacts.load(path.parent)


def test_a_picture_of_an_earlier_version_is_shown_on_both_grounds(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    (folder / "figure01-dark.svg").unlink()
    text = (folder / "figure01.svg").read_text()
    (folder / "figure01.svg").write_text(text.replace("<svg ", '<svg aria-label="what &lt;it&gt; shows" ', 1))
    content = json.loads((folder / "figure01.json").read_text())
    earlier = {name: content[name] for name in ("settings", "made_with")}
    (folder / "figure01.json").write_text(json.dumps(earlier))
    with pytest.warns(Note):
        image = next(saved.image for saved in artifacts.load(folder) if saved.name == "figure01")
    assert (image.description, image.light, image.width) == ("what <it> shows", image.dark, 216)


@in_browser
def test_a_browser_runs_and_fetches_nothing_of_a_picture(results: Path, tmp_path: Path) -> None:
    everything = "".join(part for name, part in HOSTILE.items() if name != "end")
    path = with_picture(results, tmp_path / "results", ("<defs>", f"{everything}<defs>"))
    with measurements(None, path.parent) as results_of:
        html = results_report.render(results_of, path.parent, figure2)
    (tmp_path / "page.html").write_text(html)
    options = ("--dump-dom", "--enable-logging=stderr", "--v=0")
    browser = chromium((tmp_path / "page.html").as_uri(), tmp_path / "profile", *options)
    assert "<title>LGA: all results</title>" in browser.stdout
    assert [line for line in browser.stderr.splitlines() if "CONSOLE" in line or "example.org" in line] == []


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("figure01.csv", lambda text: text.replace("1", "2", 1), r"figure01\.csv: this file does not match"),
        ("figure01.csv", None, r"figure01\.csv: there is no such file"),
        ("figure01.png", None, r"figure01\.png: there is no such file"),
        (
            "figure01.json",
            lambda text: text.replace('"date": "2', '"date": "3'),
            r"figure01\.json: this file has changed",
        ),
        (
            "figure01.json",
            lambda text: text.replace('"sha256": "', '"sha256": "0'),
            r"figure01\.json: this file has changed",
        ),
        ("figure01.json", lambda text: text.replace('"sha256"', '"sha257"'), r"figure01\.json: this file has changed"),
    ],
)
def test_files_of_a_picture_that_were_changed_are_refused(results: Path, tmp_path: Path, file, change, message) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    path = folder / file
    if change is None:
        path.unlink()
    else:
        text = path.read_text()
        assert change(text) != text
        path.write_text(change(text))
    with pytest.raises(UsageError, match=message):
        artifacts.load(folder)
    assert len(artifacts.damage(folder)) == 1


def test_a_picture_names_no_file_elsewhere(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    description = folder / "figure01.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps(sealed({**content, "files": {"../secret": "0"}})))
    with pytest.raises(UsageError, match=r"'\.\./secret' is not the name of a file in its folder"):
        artifacts.load(folder)


def test_pictures_of_earlier_versions_are_read_with_a_note_and_get_digests(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    description = folder / "figure01.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps({name: content[name] for name in ("description", "settings", "made_with")}))
    with pytest.warns(Note, match="figure01: written by an earlier version without digests"):
        saved = artifacts.load(folder)
    assert artifacts.add_digests(folder) == [description]
    assert artifacts.load(folder) == saved
    assert json.loads(description.read_text())["files"] == content["files"]
    assert artifacts.add_digests(folder) == []


# --- the short page -------------------------------------------------------------------------------------------------


def test_the_committed_page_follows_from_the_committed_results() -> None:
    remedy = "run: lossaware report --out results/README.md"
    assert (ROOT / "results" / "README.md").read_text(encoding="utf-8") == results_page.text(ROOT / "results"), remedy


def test_the_short_page_names_files_and_counts_and_follows_exports(
    out: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    assert lossaware("study", "export", "table01", "--out", out, "--to", folder) == 0
    assert not (folder / "README.md").exists(), "it was not requested"
    assert lossaware("report", "--out", folder / "README.md", "--results", folder) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder / "README.md")
    text = (folder / "README.md").read_text()
    assert "| Table 1 | 42 | 4 | 3 | 0 | 4 | 0.2 | 0 | 0 | 0 |" in text
    assert "| Table 1 | 2 | 2 | 0 | 0 | 0 | 0 | 21 (19 / 0 / 2) |" in text
    assert "| `table01*` | Table 1: final train accuracy without and with LGA (%); 4 of 42 cells, seeds: 3 |" in text
    assert "| those of other studies | Table 2: MNIST under different learning rates" in text
    assert "| `figure01*` | Figure 1:" in text
    assert "- `table08`: Table 8" in text
    assert "overridden" not in text

    assert lossaware("study", "export", "table02", "--out", out, "--to", folder) == 0
    text = (folder / "README.md").read_text()
    assert "| Table 2, overridden: epochs = 2 | 1 | 0 | 0 | 0 | 0 | 1 (1 / 0 / 0) | 0 |" in text
    assert text == results_page.text(folder)


def test_pages_of_others_are_left_alone(
    out: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("README.md", "page.html"):
        (tmp_path / name).write_text("# Mine\n")
        assert lossaware("report", "--out", tmp_path / name, "--results", results, "--store", out) == 2
        assert "is not overwritten: choose another --out" in capsys.readouterr().err
    assert lossaware("study", "export", "table01", "--out", out, "--to", tmp_path) == 0
    assert {(tmp_path / name).read_text() for name in ("README.md", "page.html")} == {"# Mine\n"}


def test_where_nothing_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "nowhere"
    assert lossaware("report", "--out", tmp_path / "a.html", "--results", nowhere, "--store", nowhere) == 2
    assert "there are no results" in capsys.readouterr().err
    assert lossaware("report", "--out", tmp_path / "a.md", "--results", nowhere) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
