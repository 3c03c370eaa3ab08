"""Restorations whose distance from the original is known by construction, of every method, and through the command line."""

import json
import math

import pytest
import torch
from looking import images_of, small_encoder

from experiments.cli import main
from experiments.commands.pretrain import build_method
from experiments.config.run import compose_pretrain
from ssl_med.catalogue import get_class, list_names
from ssl_med.evaluation.restored import scores
from ssl_med.features.restoration import Restoration, RestorationConfig
from ssl_med.methods.core.base import Method
from ssl_med.methods.core.restoring import restoring
from ssl_med.spec import SslMedError

RESTORERS = [
    name
    for name in list_names("ssl_med.methods")
    if "restoration" in get_class("ssl_med.methods", name, kind="method", base=Method).family
]


def test_scores_of_a_known_error():
    original = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = scores(original + 0.1, original, unit=True)
    assert found["mse"] == pytest.approx(0.01, rel=1e-5)
    assert found["psnr"] == pytest.approx(20, abs=1e-4)
    assert scores(original, original, unit=True) == {"mse": 0, "psnr": math.inf, "ssim": pytest.approx(1)}
    wide = 40 * original - 7  # PSNR and SSIM do not depend on the unit of intensities that have no range of their own
    measured, other = scores(wide + 4, wide, unit=False), scores(2 * wide + 8, 2 * wide, unit=False)
    assert measured["mse"] == pytest.approx(16, rel=1e-5)
    size = float(wide.max() - wide.min())
    assert measured["psnr"] == other["psnr"] == pytest.approx(20 * math.log10(size / 4), rel=1e-5)
    assert measured["ssim"] == pytest.approx(other["ssim"])


@pytest.mark.parametrize("dims", [2, 3])
def test_numbers_rows_and_figures(dims):
    x = torch.rand(6, 1, *(12,) * dims, generator=torch.Generator().manual_seed(0))

    def restore(image, generator):
        noise = torch.randn(image.shape, generator=generator)
        return {"corrupted": image + noise, "restored": image - 0.01, "unchanged": image + 0.25}

    kind = Restoration(RestorationConfig(pictures=2))
    images = images_of(small_encoder(dims), x, size=4, restore=restore)
    found = kind.measure(images)
    assert found.numbers["psnr"] == pytest.approx(40, abs=1e-3)
    assert found.numbers["mse"] == pytest.approx(1e-4, rel=1e-3)
    assert found.numbers["corrupted/mse"] == pytest.approx(1, abs=0.2)
    assert found.numbers["difference"] == pytest.approx(0.25, rel=1e-5)
    assert [row["case"] for row in found.rows] == [f"case{k}" for k in range(6)]
    assert kind.measure(images).numbers == found.numbers  # the seed draws
    assert {key for key in found.arrays if key.startswith("original")} == {"original0", "original5"}
    shown, kept = kind.draw({"a": found})
    planes = 1 if dims == 2 else 3
    assert [len(one.figure.axes) for one in (shown, kept)] == [2 * planes * 4, 2 * planes * 3]
    difference = kept.figure.axes[2].images[0]
    assert float(difference.get_array().max()) == pytest.approx(0.25, rel=1e-5)
    with pytest.raises(SslMedError, match="give init=RUN, the folder of one by a method that restores images"):
        kind.measure(images_of(small_encoder(dims), x))


def method_of(name, *more):
    words = ["data=chest14", "data.image_size=32", "data.patch_size=[32,32]", "backbone.name=unet"]
    return build_method(compose_pretrain([f"method={name}", *words, "backbone.channels=[8,8,8]", *more])).eval()


@pytest.mark.parametrize("name", RESTORERS)
def test_every_restoration_method_shows_what_it_restores(name):
    method = method_of(name)
    assert restoring(method) is method
    image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = method.restored(image, torch.Generator().manual_seed(1))
        again = method.restored(image, torch.Generator().manual_seed(1))
    assert {"corrupted", "restored"} <= found.keys() <= {"corrupted", "restored", "unchanged"}
    for key, value in found.items():
        assert value.shape == image.shape
        assert torch.equal(value, again[key])
    assert torch.equal(found["corrupted"], image) == (name == "autoencoder")


def test_it_is_the_restoration_of_the_training():
    method, image = method_of("inpainting", "method.flip=0"), torch.rand(2, 1, 32, 32)
    batch = {"image": image, "id": ["a", "b"], "index": torch.arange(2)}
    with torch.no_grad():
        terms = method.terms(method.views(batch, torch.Generator().manual_seed(1)))
        found = method.restored(image, torch.Generator().manual_seed(1))
    assert float((found["restored"] - image).square().mean()) == pytest.approx(float(terms["metric"]))
    method = method_of("mae", "method.flip=0", "method.ratio=0.75")
    with torch.no_grad():
        views = method.views(batch, torch.Generator().manual_seed(1))
        found = method.restored(image, torch.Generator().manual_seed(1))
        terms = method.terms(views)
    seen = views["mask"] == 0
    assert torch.equal(found["restored"][seen], image[seen])  # what is visible stays
    error = ((found["restored"] - image).square().flatten(1).sum(1) / views["mask"].flatten(1).sum(1)).mean()
    if not method.config.normalize:
        assert float(error) == pytest.approx(float(terms["metric"]), rel=1e-5)


def test_the_report_of_a_pretraining_shows_what_features_find(shared_phantom, tmp_path, capsys):
    words = [
        "data=chest14",
        f"data.root={shared_phantom('chest14')}",
        "data.image_size=32",
        "data.patch_size=[32,32]",
        "trainer=cpu",
        "trainer.batch_size=4",  # corruptions are drawn for a batch
        "trainer.progress=false",
        "tracking.wandb=off",
    ]
    run = tmp_path / "run"
    train = ["trainer.max_steps=2", "backbone.channels=[8,8,8]", "seed=3", f"out={run}"]
    assert main(["pretrain", "method=denoising", *words, *train]) == 0
    assert "restored" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    told = summary["restoration"]
    assert told["part"] == "val"
    assert (run / "figures" / "restoration.png").is_file()
    out = tmp_path / "features"
    looked = ["features", "kind=restoration", *words, "images.part=val", "images.cases=0", "seed=3", f"init={run}"]
    assert main([*looked, f"out={out}"]) == 0
    numbers = json.loads((out / "features.json").read_text())["numbers"]
    assert told == {"part": "val", "images": told["images"], **{key: pytest.approx(v) for key, v in numbers.items()}}
    assert main(["report", str(run), f"out={tmp_path / 'page'}"]) == 0
    page = next((tmp_path / "page").glob("*.md")).read_text()
    assert f"| {told['psnr']:.2f} | {told['corrupted/psnr']:.2f} | {told['ssim']:.3f} |" in page
    assert "restoration.png" in page
    capsys.readouterr()
    refused = [*words[:3], "data.patch_size=[16,16]", *words[4:], f"init={run}", f"out={tmp_path / 'small'}"]
    assert main(["features", "kind=restoration", *refused]) == 2
    assert "restores images of [32, 32], these are of [16, 16]; set data.patch_size=[32,32]" in capsys.readouterr().err
    assert main([*looked[:-1], "init=scratch", f"out={tmp_path / 'none'}"]) == 2
    assert "is no folder of a finished `ssl-med pretrain`" in capsys.readouterr().err
