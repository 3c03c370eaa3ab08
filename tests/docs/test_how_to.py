"""The files that docs/how-to shows are written to disk as they stand there, found by name, and used."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_med.catalogue import get_class, list_names
from ssl_med.spec import DataSpec

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"
BLOCK = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.DOTALL)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Writes the file of a page beside the package that the page names, as an extension of it; gives (package, name)."""

    def write(page):
        ((path, code),) = BLOCK.findall((HOW_TO / f"{page}.md").read_text())
        package, name = ".".join(Path(path).parent.parts), Path(path).stem
        folder = tmp_path / Path(path).parent
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(code)
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
        assert name in list_names(package)
        return package, name

    yield write
    for name, module in list(sys.modules.items()):  # the next test must not find this one's file
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_method_is_one_file(example, dims):
    from ssl_med.methods.core.base import Method
    from ssl_med.networks.backbone import backbone_config
    from ssl_med.optim import OptimConfig
    from ssl_med.spec import DataSpec

    found = get_class(*example("add-a-method"), kind="method", base=Method)
    spec = DataSpec(name="example", spatial_dims=dims, in_channels=1, patch_size=(8,) * dims)
    backbone = backbone_config("unet", channels=(8, 8, 16), norm="group")
    method = found(found.Config(share=0.5), spec=spec, backbone=backbone, optim=OptimConfig(), batch_size=4)
    image = torch.full((4, 1, *(8,) * dims), 0.5)
    corrupted = method.corrupt(image, torch.Generator().manual_seed(0))
    assert 0.3 < float((corrupted != 0.5).float().mean()) < 0.7
    terms = method.losses({"image": image, "id": list("abcd"), "index": torch.arange(4)}, torch.Generator())
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    assert {"features", "metric", "baseline"} <= terms.keys()


def test_a_data_set_is_one_file(example, tmp_path):
    package, name = example("add-a-data-set")
    from datamodules.core.base import MedicalData

    family = get_class(package, name, kind="data", base=MedicalData)
    root = tmp_path / "wrists"
    root.mkdir()
    for patient in range(6):
        for view in ("ap", "lateral"):
            grey = np.full((16, 16), 40 * patient, np.uint8)
            Image.fromarray(grey).save(root / f"p{patient}_{view}_{patient % 2}.png")
    config = family.Config(name=name, root=str(root), patch_size=(16, 16), image_size=16)
    data = family(config, labelled=True, batch_size=4)
    data.setup("fit")
    subjects = {part: set(ids) for part, ids in data.identities().items()}
    assert sum(map(len, subjects.values())) == 6
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 1, 16, 16)
    assert set(batch["label"].tolist()) <= {0, 1}


def test_an_analysis_is_one_file(example):
    from ssl_med.features.core.analysis import Analysis
    from ssl_med.features.core.images import Images
    from ssl_med.networks.backbone import backbone_config, build_backbone

    found = get_class(*example("add-an-analysis"), kind="kind", base=Analysis)
    network = build_backbone(backbone_config("unet", channels=(8, 8)), spatial_dims=2, in_channels=1).eval()
    with torch.no_grad():  # half of the channels are cut off from the image, and the others stay above the ReLU's zero
        network.levels[0][1].conv.weight[:4] = 0
        network.levels[0][1].conv.bias.fill_(10.0)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    spec = DataSpec("x", 2, 1, (8, 8))
    looked = Images(network, spec, lambda: [{"image": images, "id": list("abcdef")}], 6, range(6))
    assert found(found.Config()).measure(looked).numbers == {"level0/dead": pytest.approx(0.5)}


def test_an_importer_is_one_file(example, tmp_path):
    from ssl_med.networks.backbone import backbone_config, build_backbone
    from ssl_med.weights.core.convert import convert

    _, name = example("add-an-importer")
    config = backbone_config("unet", channels=(8, 8, 16))
    theirs = build_backbone(config, spatial_dims=3, in_channels=1).eval()
    state = {f"net.{key}": value for key, value in theirs.state_dict().items()}
    torch.save(state | {"head.weight": torch.zeros(2)}, tmp_path / "lab.pth")
    ours = convert(tmp_path / "lab.pth", versions={}, git="")  # the family recognises it
    assert ours.account.dropped == {"head.weight": "segmentation head"}
    image = torch.rand(1, 1, 8, 8, 8)
    with torch.no_grad():
        for mine, other in zip(ours.backbone.eval()(image), theirs(image), strict=True):
            assert torch.equal(mine, other)
    assert ours.card.method == name


def test_a_metric_is_one_file(example):
    from ssl_med.evaluation.metrics import added_metrics, metric_of
    from ssl_med.evaluation.tasks import Segmentation

    added_metrics.cache_clear()
    try:
        _, name = example("add-a-metric")
        truth = np.zeros((1, 4, 4, 4), bool)
        truth[0, :2] = True
        missed = added_metrics()[name].score(np.zeros_like(truth), truth, (1.0, 1.0, 2.5))
        assert missed == [pytest.approx(32 * 2.5e-3)]
        assert metric_of(f"test/{name}/liver").better(0.0, missed[0])
        assert name in Segmentation.test_metrics(["liver"])
    finally:
        added_metrics.cache_clear()


def test_a_report_section_is_one_file(example, tmp_path, monkeypatch):
    from ssl_med.reports import page, writing

    package, name = example("add-a-report-section")
    section = importlib.import_module(f"{package}.{name}").section
    monkeypatch.setattr(page, "SECTIONS", (*page.SECTIONS, section))
    for method, seed, seconds in (("scratch", 0, 5.0), ("scratch", 1, 75.0), ("moco", 0, 3.0)):
        summary = {"kind": "finetune", "status": "done", "method": method, "seed": seed, "seconds": seconds}
        summary |= {"task": "lits", "data": "lits", "metric": "dice", "metrics": {"test/dice": 0.5}}
        writing.write_summary(tmp_path / "runs" / f"{method}{seed}", summary)
    page.report_runs([tmp_path / "runs"], tmp_path / "out")
    said = (tmp_path / "out" / "report.md").read_text().partition("## Longest run")[2].splitlines()
    assert [line for line in said if line][2:5] == [
        "| scratch | 1 min 15 s |",
        "| moco | 3 s |",
        "Longest run of each row.",
    ]
    assert '<h2 id="longest">Longest run</h2>' in (tmp_path / "out" / "report.html").read_text()
    tex = (tmp_path / "out" / "table.tex").read_text()
    assert "scratch & 1 min 15 s" in tex.partition("tab:report-longest")[2]


def test_a_protocol_is_one_file(example):
    """Features that are their own answer: each class lies on an axis, and one of four test samples on the wrong one."""
    from types import SimpleNamespace

    from experiments.config.protocols import probe_class, probes, settings_of
    from experiments.config.run import compose_probe
    from ssl_med.evaluation.features import Features
    from ssl_med.evaluation.tasks import TaskConfig
    from ssl_med.networks.backbone import backbone_config, build_backbone
    from ssl_med.spec import DataSpec, SslMedError

    package, name = example("add-a-protocol")
    assert name in probes()
    spec = DataSpec("x", 2, 1, (8, 8), target="class", class_names=("a", "b"))
    found = probe_class(name, spec, "x")
    train = Features(("1", "2"), torch.tensor([[2.0, 0.1], [0.1, 3.0]]), torch.tensor([0, 1]))
    axes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 0.0], [1.0, 0.0]])
    test = Features(("p", "q", "r", "s"), axes, torch.tensor([0, 1, 0, 1]))
    backbone = build_backbone(backbone_config("unet", channels=(2, 2)), spatial_dims=2, in_channels=1)
    source = SimpleNamespace(
        spec=spec, task=TaskConfig(name="x"), backbone=backbone, levels=(0,), seed=0,
        features=lambda samples_of, *, kind, parts: [{"train": train, "test": test}[part] for part in parts],
        subjects=lambda: [0, 1, 2, 2],
    )  # fmt: skip
    result = found(found.Config()).result(source)
    assert result.metrics["accuracy"] == 0.75
    assert [row["subject"] for row in result.rows] == [0, 1, 2, 2]
    # what it needs is known before work starts
    assert settings_of(name) == [f"{package}.{name}:Config"]
    assert compose_probe(["task=nodule2d", "protocol=centroid", "probe.temperature=0.5"]).probe.temperature == 0.5
    with pytest.raises(
        SslMedError, match="protocol=centroid needs class labels, task 'lits' has masks; use protocol=li"
    ):
        compose_probe(["task=lits", "protocol=centroid"])
    with pytest.raises(
        SslMedError, match="protocol=finetune is that of `ssl-med finetune`; a probe has: centroid, dense"
    ):
        compose_probe(["task=lits", "protocol=finetune"])


def test_lists_of_transforms_are_taken_as_they_stand(tmp_path, monkeypatch):
    from experiments.config.run import compose_finetune, compose_pretrain

    text = (HOW_TO / "use-monai-transforms.md").read_text()
    for name, body in re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(body)
    monkeypatch.chdir(tmp_path)
    run = compose_finetune(["task=lits", "trainer=cpu", "task.augment=mine.yaml"])
    assert [entry["_target_"] for entry in run.task.augment][:2] == ["RandRotateScaled", "OneOf"]
    assert compose_pretrain(
        ["method=moco", "data=monai", "trainer=cpu", "data.preprocess=prepare.yaml"]
    ).data.preprocess
