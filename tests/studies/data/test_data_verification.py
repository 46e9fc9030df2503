"""Each run records its data files; changed files are refused before the first run unless accepted explicitly."""

import json

import pytest

from lossaware.errors import UsageError
from lossaware.studies.data.checksums import record_files
from lossaware.studies.data.sets import DATA_SETS
from lossaware.studies.execution.torchrun import _plain
from lossaware.studies.specs.data_folder import DataFolder
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.store.database import Store
from lossaware.studies.training.checkpoint import Checkpoint
from lossaware.studies.training.run import run
from support.command_line import captured, lossaware

FEW = "--optimizers sgd --lrs 1e-3 --seeds 2 --epochs 1 --jobs 1 --json"
SPEC = RunSpec(task="mnist", optimizer="sgd", lr=1e-3, seed=0, epochs=3, batch_size=64)


def compare(capsys, data, out, *more):
    return captured(capsys, "compare", "mnist", *FEW.split(), "--data", data, "--out", out, *more)


def recorded(out):
    """The data in the records of the runs."""
    with Store(out / "results.sqlite", read_only=True) as store:
        return {store.environment(spec).get("data") for spec in store.specs()}


def change_a_pixel(folder):
    path = folder / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 128]))


def test_a_run_records_its_verified_data(tiny_mnist, tmp_path, capsys):
    code, out, err = compare(capsys, tiny_mnist, tmp_path / "out")
    assert code == 0, err
    files = load_task("mnist").load(tiny_mnist).files
    assert recorded(tmp_path / "out") == {str(files[0])}
    assert str(files[0]).startswith("MNIST/raw: verified (the files recorded on ")
    facts = json.loads(out)["facts"]
    assert str(files[0]) in {value for part in facts.values() for value in part.values()}
    assert "verified" not in err, "what is as it should be is not worth a line"


def test_a_changed_file_is_refused_before_the_first_run(tiny_mnist, tmp_path, capsys):
    change_a_pixel(tiny_mnist)
    code, _, err = compare(capsys, tiny_mnist, tmp_path / "out")
    assert code == 2
    assert "train-images-idx3-ubyte: it differs from the files recorded on" in err
    assert "accept it once with --no-verify, or from now on with `lossaware data record`" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_changed_file_can_be_accepted_and_is_recorded(tiny_mnist, tmp_path, capsys):
    change_a_pixel(tiny_mnist)
    code, _, err = compare(capsys, tiny_mnist, tmp_path / "out", "--no-verify")
    assert code == 0, err
    [line] = recorded(tmp_path / "out")
    assert line.startswith("MNIST/raw: not verified (--no-verify); changed: train-images-idx3-ubyte; content ")
    assert err.count("not verified") == 1, "once for all runs"


def test_files_without_checksums_are_reported_once(example_data, tmp_path, capsys):
    small = "--set side=32 --set width=4 --set train_examples=2 --set test_examples=1 --batch-size 2"
    arguments = f"compare segmentation {small} {FEW} --data {example_data} --out {tmp_path / 'out'}"
    code, _, err = captured(capsys, *arguments.split())
    assert code == 0, err
    [line] = recorded(tmp_path / "out")
    assert line.startswith("bag_data: not verified (no checksums are known); content ")
    assert err.count(f"{line}. To verify files from now on: `lossaware data record`.") == 1
    record_files(DATA_SETS["segmentation"], example_data)
    [files] = load_task("segmentation", {"side": 32, "train_examples": 2, "test_examples": 1}).load(example_data).files
    assert files.verified
    assert files.content[:16] == line[-16:], "the same files"


def test_no_verify_without_data_is_an_error(capsys):
    assert lossaware("compare", "digits", "--no-verify") == 2
    assert capsys.readouterr().err == "lossaware: --no-verify needs --data, whose files it is for\n"


def test_digits_read_no_files():
    assert load_task("digits").load(None).files == ()


def test_a_checkpoint_of_other_data_is_not_taken(tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr("lossaware.studies.training.checkpoint.SECONDS", 0.0)
    lines = []

    def checkpoint():
        return Checkpoint(tmp_path / "one.pt", SPEC, lambda line, epochs: lines.append(line))

    first = run(SPEC, tiny_mnist, checkpoint=checkpoint())
    next(first)
    next(first)
    first.close()
    change_a_pixel(tiny_mnist)
    with pytest.raises(UsageError, match="it differs"):
        next(run(SPEC, tiny_mnist, checkpoint=checkpoint()))
    record_files(DATA_SETS["mnist"], tiny_mnist)
    next(run(SPEC, tiny_mnist, checkpoint=checkpoint()))
    assert [line.partition(" ")[2].partition(" ")[2] for line in lines] == [
        f"{tmp_path / 'one.pt'} differs in its data, so the run starts from the beginning"
    ]


def test_ranks_verify_as_their_leader_does(tmp_path):
    orders = json.loads(json.dumps([_plain(None), _plain(tmp_path), _plain(DataFolder(tmp_path, verify=False))]))
    assert [order["verify"] for order in orders] == [True, True, False]
    assert [order["data"] for order in orders] == [None, str(tmp_path), str(tmp_path)]
