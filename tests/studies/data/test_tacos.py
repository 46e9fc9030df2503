"""TACoS: values of annotations, words, positions and features; stand-ins are marked as such."""

import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossaware.errors import UsageError
from lossaware.studies.data import tacos
from lossaware.studies.data.checksums import MANIFEST, record_files
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.sets import DATA_SETS
from lossaware.studies.data.stand_in import FRAMES_PER_ROW, SCALE, SIGNAL, features_of, make_stand_in
from lossaware.studies.data.tacos import (
    FEATURE_SIZE,
    STAND_IN_MARK,
    Video,
    pool,
    positions_of,
    read_annotations,
    read_features,
    read_moments,
    vocabulary,
    words_of,
)
from lossaware.studies.specs.tasks import load_task
from support.command_line import lossaware


def video(*moments, frames=1280, fps=29.4):
    return {
        "timestamps": [[start, end] for start, end, _ in moments],
        "sentences": [sentence for _, _, sentence in moments],
        "fps": fps,
        "num_frames": frames,
    }


GOOD = {
    "train": {
        "s1.avi": video((0, 128, "He takes a knife."), (640, 1290, "He cuts the bread")),
        "s2.avi": video((64, 128, "He washes a carrot"), frames=20_000),
    },
    "val": {"s3.avi": video((0, 64, "She takes a pan"))},
    "test": {"s4.avi": video((320, 640, "He peels the carrot"))},
}


def write(folder, annotations=GOOD):
    folder.mkdir(parents=True, exist_ok=True)
    for part, videos in annotations.items():
        (folder / f"{part}.json").write_text(json.dumps(videos))
    return folder


# --- annotations ----------------------------------------------------------------------------------------------------


def test_annotations_are_those_written_and_end_with_their_video(tmp_path):
    videos = read_annotations(DataFiles(write(tmp_path)), "train.json")
    assert list(videos) == ["s1", "s2"]
    assert videos["s1"].timestamps == [(0, 128), (640, 1280)]
    assert videos["s1"].sentences == ["He takes a knife.", "He cuts the bread"]
    assert (videos["s2"].num_frames, videos["s2"].fps) == (20_000, 29.4)


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ({}, "it has no annotated video"),
        ({"a": video()}, "it has no annotated video"),
        ({"a": video((0, 5, "x")), "a.avi": video((0, 5, "y"))}, r"a is listed twice, with and without \.avi"),
        ([], r"train\.json: Input should be"),
        ({"a": {**video(), "fps": 0}}, r"a\.fps: .*greater than 0"),
        ({"a": {**video(), "num_frames": -1}}, r"a\.num_frames"),
        ({"a": {**video(), "colour": 1}}, r"a\.colour: Extra inputs are not permitted"),
        ({"a": {"sentences": []}}, r"a\.timestamps: Field required"),
        ({"a": video((-1, 5, "x"))}, r"a\.timestamps\.0\.0: .*greater than or equal to 0"),
        ({"a": video((1.5, 5, "x"))}, r"a\.timestamps\.0\.0: .*integer"),
        ({"a": video((5, 5, "x"))}, "a: timestamp 0 is frames 5 to 5 of 1280; it must lie within the video"),
        ({"a": video((0, 9, "x"), (9, 5, "x"))}, "timestamp 1 is frames 9 to 5"),
        ({"a": video((1280, 1290, "x"))}, "timestamp 0 is frames 1280 to 1290 of 1280"),
        ({"a": video((0, 1310, "x"))}, "timestamp 0 is frames 0 to 1310 of 1280"),
        ({"a": video((0, 5, " "))}, "sentence 0 is empty"),
        ({"a": {**video((0, 5, "x")), "sentences": []}}, "a has 1 timestamps and 0 sentences"),
        ({"../a": video((0, 5, "x"))}, "is not a valid video name"),
    ],
)
def test_mistakes_in_annotations_are_errors(tmp_path, videos, message):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(videos))
    with pytest.raises(UsageError, match=message) as error:
        read_annotations(DataFiles(tmp_path), "train.json")
    assert "train.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_errors(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        read_annotations(DataFiles(tmp_path), "train.json")
    (tmp_path / "train.json").write_bytes((write(tmp_path / "good") / "train.json").read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"train\.json: Invalid JSON"):
        read_annotations(DataFiles(tmp_path), "train.json")


# --- words ----------------------------------------------------------------------------------------------------------


def test_words_are_lower_case_and_marks_are_separate():
    assert words_of("He doesn't cut 2 carrots, does he?") == [
        "he",
        "doesn't",
        "cut",
        "2",
        "carrots",
        ",",
        "does",
        "he",
        "?",
    ]


def test_frequent_words_have_the_low_numbers(monkeypatch):
    numbers = vocabulary(["b a b", "c a b d"])
    assert numbers == {"b": 2, "a": 3, "c": 4, "d": 5}
    monkeypatch.setattr(tacos, "WORDS", 4)
    assert vocabulary(["b a b", "c a b d"]) == {"b": 2, "a": 3}


# --- positions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "length", "expected"),
    [
        ((0.0, 1.0), 10, (0, 9)),
        ((0.2, 0.5), 10, (2, 4)),
        ((0.21, 0.22), 10, (2, 2)),
        ((0.24, 0.48), 10, (2, 4)),
        ((0.28, 0.52), 10, (3, 4)),
        ((0.19, 0.23), 10, (2, 2)),  # across a border, most of it after it
        ((0.17, 0.21), 10, (1, 1)),
        ((0.9, 1.0), 1, (0, 0)),
    ],
)
def test_positions_of_moments(moment, length, expected):
    first, last = positions_of(torch.tensor([moment]), torch.tensor([length]))
    assert (int(first), int(last)) == expected


@given(st.floats(0, 0.99), st.floats(0.001, 1), st.integers(1, 20))
def test_no_other_positions_overlap_more(start, share, length):
    end = start + share * (1 - start)
    moment = torch.tensor([[start, end]])
    start, end = (float(x) * length for x in moment[0].double())
    if not start < end:
        return

    def iou(first, last):
        both = max(0.0, min(last + 1, end) - max(first, start))
        return both / (max(last + 1, end) - min(first, start))

    first, last = (int(x) for x in positions_of(moment, torch.tensor([length])))
    assert 0 <= first <= last < length
    best = max(iou(a, b) for a in range(length) for b in range(a, length))
    assert iou(first, last) == pytest.approx(best)


# --- features -------------------------------------------------------------------------------------------------------


def test_short_features_are_kept_and_long_ones_pooled(tmp_path):
    values = np.random.default_rng(0).standard_normal((300, FEATURE_SIZE))
    np.save(tmp_path / "a.npy", values[:128].astype(np.float32))
    np.save(tmp_path / "b.avi.npy", values)
    torch.testing.assert_close(read_features(DataFiles(tmp_path), "a"), torch.from_numpy(values[:128]).float())
    pooled = read_features(DataFiles(tmp_path), "b")
    assert (pooled.shape, pooled.dtype) == ((128, FEATURE_SIZE), torch.float32)
    # 300 / 128 = 2.34: stretches 0-2, 2-5, 5-7, ... as rounded.
    for row, (begin, end) in enumerate([(0, 2), (2, 5), (5, 7)]):
        np.testing.assert_allclose(pooled[row], values[begin:end].mean(0), atol=1e-5)
    np.testing.assert_allclose(pooled[-1], values[298:].mean(0), atol=1e-5)


@given(st.integers(129, 2000))
def test_every_row_counts_once(length):
    pooled = pool(np.ones((length, 1), np.float32), 128)
    assert pooled.shape == (128, 1)
    np.testing.assert_allclose(pooled, 1)
    borders = np.round(np.arange(129) / 128 * length)
    assert (np.diff(borders) >= 1).all()


def test_mistakes_in_features_are_errors(tmp_path):
    good = np.zeros((3, FEATURE_SIZE), np.float32)
    with pytest.raises(UsageError, match=r"neither a\.npy nor a\.avi\.npy in"):
        read_features(DataFiles(tmp_path), "a")
    bad = good.copy()
    bad[1, 5] = np.nan
    for values, message in (
        (good[:, :5], r"shape \(3, 5\); \(frames, 1024\) is expected"),
        (good[0], r"shape \(1024,\)"),
        (good[:0], r"shape \(0, 1024\)"),
        (good.astype(int), "floating-point numbers"),
        (bad, "not finite"),
        (good.astype(np.float64) + 1e300, "not finite"),
        (np.array([{"pickled": 1}], dtype=object), "not a readable array"),
    ):
        np.save(tmp_path / "a.npy", values, allow_pickle=True)
        with warnings.catch_warnings(record=True) as further_lines, pytest.raises(UsageError, match=message) as error:
            read_features(DataFiles(tmp_path), "a")
        assert further_lines == []
        assert "a.npy" in str(error.value)
    np.save(tmp_path / "a.npy", good)
    whole = (tmp_path / "a.npy").read_bytes()
    broken = whole.replace(b"}", b" ")  # its header does not end
    endless = whole.replace(b"(3, ", b"(9" + b"9" * 15 + b", ").replace(b" " * 15, b"", 1)
    for content in (whole[:-100], whole[:20], b"", b"<html>", pickle.dumps([1]), broken, endless):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(UsageError, match="not a readable array") as error:
            read_features(DataFiles(tmp_path), "a")
        assert "allow_pickle=`" not in str(error.value)
        assert "\n" not in str(error.value)


# --- examples -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Annotations and features: 20 rows for s1, 300 for s2; the values of a row identify its number."""
    place = write(tmp_path / "tacos")
    (place / "features").mkdir()
    for name, rows in (("s1", 20), ("s2", 300), ("s4", 64)):
        values = np.repeat(np.arange(rows, dtype=np.float16)[:, None], FEATURE_SIZE, axis=1)
        np.save(place / "features" / f"{name}.npy", values)
    record_files(DATA_SETS["tacos"], tmp_path)
    return tmp_path


def test_examples(folder):
    place = folder / "tacos"
    moments, numbers = read_moments(DataFiles(place), DataFiles(place / "features"), "train")
    assert len(moments) == 3
    ((features, lengths, words, first, last, spans),) = moments.batches(3, None)
    assert features.shape == (3, 128, FEATURE_SIZE)
    assert lengths.tolist() == [20, 20, 128]
    assert torch.equal(features[0], features[1])
    assert features[0, :, 7].tolist() == list(range(20)) + [0] * 108
    inverse = {number: word for word, number in numbers.items()}
    assert [[inverse.get(int(n), "") for n in row] for row in words] == [
        ["he", "takes", "a", "knife", "."],
        ["he", "cuts", "the", "bread", ""],
        ["he", "washes", "a", "carrot", ""],
    ]
    torch.testing.assert_close(spans, torch.tensor([[0, 0.1], [0.5, 1.0], [0.0032, 0.0064]]))
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == [(0, 1), (10, 19), (0, 0)]


def test_a_batch_is_as_long_as_its_longest_example(folder):
    place = folder / "tacos"
    moments, _ = read_moments(DataFiles(place), DataFiles(place / "features"), "train")
    shapes = [(features.shape[1], words.shape[1]) for features, _, words, *_ in moments.batches(1, None)]
    assert shapes == [(20, 5), (20, 4), (128, 4)]
    order = [int(length) for _, length, *_ in moments.batches(1, torch.Generator().manual_seed(1))]
    assert sorted(order) == [20, 20, 128]


def test_words_missing_in_training_are_unknown(folder):
    data = load_task("grounding").data(folder)
    ((_, _, words, *_),) = data.test.batches(5, None)
    numbers = vocabulary(s for v in GOOD["train"].values() for s in v["sentences"])
    assert words.tolist() == [[numbers["he"], 1, numbers["the"], numbers["carrot"]]]


def test_a_missing_video_is_an_error(folder):
    (folder / "tacos" / "features" / "s4.npy").unlink()
    with pytest.raises(UsageError, match=r"neither s4\.npy nor s4\.avi\.npy"):
        load_task("grounding").data(folder)


# --- stand-ins ------------------------------------------------------------------------------------------------------


def test_stand_ins_carry_the_spans_and_nothing_else(tmp_path):
    """A row's inner product with a sentence's vector is large only within its span."""
    place = write(tmp_path / "tacos")
    make_stand_in(DataFiles(place), place / "one")
    quiet = {"train": {"s1.avi": video(*[(s, e, "Unrelated words") for s, e in ((0, 64),)])}}
    other = write(tmp_path / "other", {**GOOD, **quiet})
    make_stand_in(DataFiles(other), other / "one")
    with_spans, without = (np.load(folder / "one" / "s1.npy") for folder in (place, other))
    assert with_spans.shape == (1280 // FRAMES_PER_ROW, FEATURE_SIZE)
    assert with_spans.dtype == np.float32
    np.testing.assert_allclose(np.sqrt((with_spans**2).mean(axis=1)), SCALE, rtol=1e-5)
    assert np.array_equal(with_spans[2:10], without[2:10])  # no sentence describes frames 128 to 640
    # The rows of a span are noise plus the vector of the sentence.
    signal, noise = with_spans[10:], without[10:]
    signal = signal - noise * ((signal * noise).sum(axis=1) / (noise**2).sum(axis=1))[:, None]
    assert np.corrcoef(signal).min() > 0.99
    share = SIGNAL / np.sqrt(1 + SIGNAL**2)
    np.testing.assert_allclose(np.sqrt((signal**2).mean(axis=1)), SCALE * share, rtol=0.05)
    assert abs(without[1:].mean()) < 0.02


def test_every_row_that_overlaps_a_span_contains_it():
    marked, silent = (
        features_of("a", Video(timestamps=spans, sentences=["x"] * len(spans), fps=29.4, num_frames=256), {}, seed=0)
        for spans in ([(70, 130)], [])
    )
    assert (marked != silent).any(axis=1).tolist() == [False, True, True, False]


def test_stand_ins_of_equal_seeds_are_equal(tmp_path):
    place = write(tmp_path / "tacos")
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        make_stand_in(DataFiles(place), place / name, seed)
    one, two, three = (np.load(place / name / "s2.npy") for name in ("one", "two", "three"))
    assert np.array_equal(one, two)
    assert abs(np.corrcoef(one.ravel(), three.ravel())[0, 1]) < 0.05
    videos = sorted(path.name for path in (place / "one").iterdir())
    assert videos == [STAND_IN_MARK, MANIFEST, "s1.npy", "s2.npy", "s3.npy", "s4.npy"]


def test_stand_ins_are_complete_or_missing(tmp_path, monkeypatch):
    place = write(tmp_path / "tacos")
    saved = np.save

    def full_disk(path, values):
        if path.stem == "s3":
            raise OSError(28, "No space left on device")
        saved(path, values)

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(UsageError, match=r"stand-in-features cannot be written .*No space left"):
        make_stand_in(DataFiles(place), place / "stand-in-features")
    assert sorted(path.name for path in place.iterdir()) == ["test.json", "train.json", "val.json"]
    monkeypatch.setattr(np, "save", saved)
    make_stand_in(DataFiles(place), place / "stand-in-features")
    with pytest.raises(UsageError, match="already exists"):
        make_stand_in(DataFiles(place), place / "stand-in-features")


def test_results_from_stand_ins_are_marked(tmp_path, capsys):
    place = write(tmp_path / "tacos")
    record_files(DATA_SETS["tacos"], tmp_path)
    real, stand_in = load_task("grounding"), load_task("grounding", {"features": "stand-in"})
    assert "stand-in features" in stand_in.name
    assert "Stand-in features" in stand_in.summary
    assert "tand-in" not in real.name + real.summary
    with pytest.raises(UsageError, match=r"no folder .*tacos/features; put one \.npy .*lossaware data stand-in tacos"):
        real.data(tmp_path)
    with pytest.raises(UsageError, match=r"no folder .*stand-in-features; `lossaware data stand-in tacos"):
        stand_in.data(tmp_path)
    make_stand_in(DataFiles(place), place / "stand-in-features")
    assert len(stand_in.data(tmp_path).train) == 3
    few = "--optimizers sgd --lrs 1e-3 --seeds 1 --epochs 1 --jobs 1 --json --set features=stand-in"
    assert lossaware("compare", "grounding", "--data", str(tmp_path), *few.split(), "--out", str(tmp_path / "out")) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert len(tables) == 2
    assert all(table["remark"].endswith("Measured with stand-in features, not with real ones.") for table in tables)
    assert "Does LGA help on grounding with stand-in features?" in (tmp_path / "out" / "report.html").read_text()
    # Renamed stand-ins are not accepted as real features, and real features not as stand-ins.
    (place / "stand-in-features").rename(place / "features")
    with pytest.raises(UsageError, match="features must not be stand-in features"):
        real.data(tmp_path)
    (place / "features" / STAND_IN_MARK).unlink()
    (place / "features").rename(place / "stand-in-features")
    with pytest.raises(UsageError, match="stand-in-features must be stand-in features"):
        stand_in.data(tmp_path)


def test_grounding_refuses_other_features():
    with pytest.raises(UsageError, match="features must be real or stand-in, got 'glove'"):
        load_task("grounding", {"features": "glove"})


# --- the real annotations -------------------------------------------------------------------------------------------


def test_the_real_annotations(data_folder):
    files = DataFiles(data_folder / tacos.PLACE, tacos.PLACE)
    annotations = {part: read_annotations(files, f"{part}.json") for part in ("train", "val", "test")}
    counts = {
        part: (len(videos), sum(len(v.sentences) for v in videos.values())) for part, videos in annotations.items()
    }
    assert counts == {"train": (75, 9790), "val": (27, 4436), "test": (25, 4001)}
    numbers = vocabulary(s for v in annotations["train"].values() for s in v.sentences)
    assert len(numbers) < tacos.WORDS - 2
    spans, lengths = [], []
    for one in annotations["train"].values():
        spans += [(start / one.num_frames, end / one.num_frames) for start, end in one.timestamps]
        lengths += [min(-(-one.num_frames // FRAMES_PER_ROW), 128)] * len(one.timestamps)
    first, last = positions_of(torch.tensor(spans), torch.tensor(lengths))
    assert (first >= 0).all()
    assert (first <= last).all()
    assert (last < torch.tensor(lengths)).all()
