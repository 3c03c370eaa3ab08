"""`ssl-med features` from the command line: one run for each network, one page for all."""

import csv
import json

import numpy as np
import pytest
import torch

import ssl_med
from datamodules.chest14 import Chest14Data
from experiments.cli import main
from experiments.commands.embed import embed
from experiments.commands.features import features
from ssl_med.reports.run_folder import find_runs
from ssl_med.reports.writing import write_summary
from ssl_med.spec import SslMedError

SMALL = ["trainer=cpu", "trainer.progress=false", "backbone.channels=[8,8]", "tracking.wandb=off"]


@pytest.fixture
def words(shared_phantom):
    return [
        "data=chest14",
        f"data.root={shared_phantom('chest14')}",
        "data.image_size=32",
        "data.patch_size=[32,32]",
        *SMALL,
    ]


def test_two_networks_are_compared_on_the_same_images_and_a_finished_run_is_not_repeated(words, tmp_path, capsys):
    call = ["features", "kind=spectrum", *words, f"out={tmp_path / 'a'}", "features.min_images=4", "images.cases=6"]
    pretrained = tmp_path / "simclr"
    train = ["pretrain", "method=simclr", *words, "trainer.max_steps=1", "trainer.batch_size=4", f"out={pretrained}"]
    assert main(train) == 0
    capsys.readouterr()
    assert main([*call, "init=scratch", f"init={pretrained}"]) == 0
    assert "2 networks side by side" in capsys.readouterr().out
    told = json.loads((tmp_path / "a" / "side_by_side" / "features.json").read_text())
    assert told["networks"] == ["scratch", "simclr"]
    runs = {run.method: run for run in find_runs([tmp_path / "a"]) if not run.summary.get("networks")}
    assert runs.keys() == {"scratch", "simclr"}
    for name, run in runs.items():
        assert not run.problem
        assert run.summary["images"] == {"part": "test", "cases": 6, "samples": 6}
        assert run.metrics["level0/effective_rank"] == told["numbers"][f"{name}/level0/effective_rank"]
        assert [path.name for *_, path in run.drawings] == ["spectrum.png"]
    assert runs["scratch"].metrics != runs["simclr"].metrics
    page = (tmp_path / "a" / "report.md").read_text()
    for run in runs.values():
        assert f"{run.metrics['level0/effective_rank']:.4g}" in page
    assert "What have the networks learned?" in page
    assert main([*call, "init=scratch", f"init={pretrained}"]) == 0
    assert capsys.readouterr().out.count("finished already") == 2
    (runs["simclr"].folder / "features.safetensors").write_bytes(b"half of it")
    assert main([*call, "init=scratch", f"init={pretrained}"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{runs['simclr'].folder}: what the analysis found cannot be read" in line
    assert "remove the folder" in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["kind=spectrums"], "did you mean 'spectrum'"),
        (["kind=spectrum", "kind=saliency"], "'kind' is given twice"),
        (
            ["kind=spectrum", "images.part=val", "data.split_ratios=[0.8,0,0.2]"],
            "images.part=val has no case; take one of",
        ),
        (["kind=spectrum", "features.min_image=3"], "did you mean 'min_images'"),
        (["kind=spectrum", "init=nowhere", "init=scratch"], "nowhere"),
    ],
)
def test_wrong_requests_end_before_anything_is_written(words, tmp_path, more, message):
    with pytest.raises(SslMedError, match=message):
        features([*words, f"out={tmp_path / 'out'}", *more])
    assert not (tmp_path / "out").exists()


def test_labels_that_nobody_reads_are_refused(shared_phantom):
    root = f"data.root={shared_phantom('chest14')}"
    with pytest.raises(SslMedError, match="reads no labels; give data=NAME in place of task=chest14"):
        features(["kind=spectrum", "task=chest14", root, *SMALL])


def test_correlation_reads_finished_runs(tmp_path, capsys):
    for number, method in enumerate(("simclr", "moco", "byol", "pcrl")):
        common = {"status": "done", "method": method, "data": "chest14", "seed": 0}
        looked_at = {"kind": "features", "analysis": "spectrum", "metrics": {"level0/effective_rank": 2.0 + number}}
        write_summary(tmp_path / f"{method}-spectrum", {**common, **looked_at})
        probed = {"kind": "probe", "protocol": "linear", "task": "chest14", "metric": "auroc"}
        write_summary(tmp_path / f"{method}-linear", {**common, **probed, "metrics": {"test/auroc": 0.9 - number / 10}})
    # a network that has no transfer score, and for which the analyses need longer names than the probes do
    card = {"method": "moco", "steps": 7, "spec": {"name": "luna"}}
    init = {"kind": "run", "path": "moco-luna", "method": "moco", "card": card}
    summary = {"kind": "features", "status": "done", "method": "moco", "data": "chest14", "seed": 0, "init": init}
    numbers = {"level0/effective_rank": 9.0}
    write_summary(tmp_path / "moco-luna-spectrum", {**summary, "analysis": "spectrum", "metrics": numbers})
    out = tmp_path / "out"
    assert main(["features", "kind=correlation", str(tmp_path), f"out={out}"]) == 0
    assert "1 correlations" in capsys.readouterr().out
    assert (out / "report.html").is_file()
    (row,) = csv.DictReader((out / "correlation.csv").open())
    assert row["number"] == "spectrum on chest14: level0/effective_rank"
    assert (int(row["networks"]), float(row["spearman"])) == (4, pytest.approx(-1))
    assert main(["features", "kind=correlation", str(tmp_path / "simclr-linear")]) == 2
    assert "fewer than 4 networks have both" in capsys.readouterr().err
    assert main(["features", "kind=correlation"]) == 2
    assert "names no folder" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet"])
def test_vectors_are_those_of_the_encoder(words, tmp_path, ending, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet") if ending == "parquet" else None
    monkeypatch.chdir(tmp_path)
    pretrained = tmp_path / "rotation"
    train = ["trainer.max_steps=1", "trainer.batch_size=4", f"out={pretrained}"]
    assert main(["pretrain", "method=rotation", *words, *train]) == 0
    path = tmp_path / f"vectors.{ending}"
    assert main(["embed", *words, f"init={pretrained}", f"out={path}"]) == 0
    if parquet is not None:
        held = parquet.read_table(path).to_pydict()
        names, x = held.pop("id"), np.array(list(held.values())).T
    elif ending == "npz":
        held = np.load(path)
        names, x = held["id"].tolist(), held["x"]
    else:
        rows = [line.split(",") for line in path.read_text().splitlines()]
        names, x = [row[0] for row in rows[1:]], np.array([row[1:] for row in rows[1:]], float)
    encoder, _ = ssl_med.load_backbone(pretrained)
    data = Chest14Data(
        Chest14Data.Config(name="chest14", root=words[1].partition("=")[2], image_size=32, patch_size=(32, 32)),
        labelled=False,
        batch_size=4,
        test=True,
    )
    data.setup()
    cases = [case for part in data.parts.values() for case in part]
    assert len(cases) > 20
    samples = {
        name: image
        for batch in data.still_loader(cases, part="test")
        for name, image in zip(batch["id"], batch["image"], strict=True)
    }
    assert names == list(samples), "all images of all parts, in their order"
    mine = ssl_med.embed(encoder, torch.stack([samples[name] for name in names]))
    np.testing.assert_allclose(x, mine, rtol=1e-5, atol=1e-6)


def test_embed_refuses_what_it_cannot_write(words):
    ending = "must be a file that ends in"
    for more, message in (
        ([], ending),
        (["out=a.xlsx"], ending),
        (["out=a.csv", "features.dense=true"], "write a .npz"),
    ):
        with pytest.raises(SslMedError, match=message):
            embed([*words, *more])
