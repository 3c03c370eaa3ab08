"""What leaves computes the same elsewhere: each form is written, read by what it is for, and compared."""

import hashlib
import json
import re
from dataclasses import replace

import pytest
import torch
from foreign_case import cases_of

from ssl_med.checkpoint import save_backbone
from ssl_med.spec import SslMedError
from ssl_med.weights.core.convert import convert
from ssl_med.weights.core.exporter import export
from ssl_med.weights.core.load import load, read_ours
from ssl_med.weights.core.program import Levels
from ssl_med.weights.export.onnx import TOLERANCE

ABOUT = {"versions": {}, "git": ""}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """family, number of its case -> the imported weights as a file of ours."""
    known = {}

    def made(name, number=0):
        if (name, number) not in known:
            folder, case = tmp_path_factory.mktemp(name), cases_of(name)[number]
            found = convert(case.write(folder, case.made()), name, **ABOUT)
            card = replace(found.card, skips=None)
            save_backbone(folder / "ours.safetensors", backbone=found.backbone, decoder=None, card=card)
            known[name, number] = read_ours(folder / "ours.safetensors")
        return known[name, number]

    return made


def image_for(source, batch=1):
    sides = source.contract.patch_size
    return torch.rand(batch, source.backbone.in_channels, *sides, generator=torch.Generator().manual_seed(2))


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()))


@torch.no_grad()
def test_timm_names_are_read_as_timms_and_give_the_same(sources, tmp_path):
    source = sources("timm_vit")
    lines = export(source, "timm", tmp_path / "x.pth")
    assert "embed_dim=192, depth=4, num_heads=3" in lines[0]
    again = convert(tmp_path / "x.pth", "timm_vit", **ABOUT)
    x = image_for(source)
    for one, two in zip(again.backbone.eval()(x), source.backbone(x), strict=True):
        same(one, two)
    original = cases_of("timm_vit")[0].made()
    written = torch.load(tmp_path / "x.pth", weights_only=True)
    assert written.keys() == original.keys() - {"head.weight", "head.bias"}
    assert all(written[key].shape == original[key].shape for key in written)


@pytest.mark.parametrize(("family", "number"), [("timm_vit", 1), ("dinov2", 3)])
def test_timm_itself_takes_what_is_written(family, number, sources, tmp_path):
    timm = pytest.importorskip("timm")
    source = sources(family, number)
    arguments = re.search(r"VisionTransformer\((.*)\)", export(source, "timm", tmp_path / "x.pth")[0])[1]
    names = {"functools": __import__("functools"), "torch": torch, "timm": timm}
    network = eval(f"timm.models.vision_transformer.VisionTransformer({arguments})", names).eval()
    network.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True))
    x = image_for(source)
    with torch.no_grad():
        theirs = network.forward_features(source.backbone.normalised(x))
        mine = source.backbone.encode(source.backbone.tokens(source.backbone.normalised(x)))[-1]
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "complaint"),
    [("dinov3", "positions=rotary; timm's"), ("three_dino", "is a 3D vit; this form is for 2D vit")],
)
def test_timm_names_refuse_other_networks(family, complaint, sources, tmp_path):
    with pytest.raises(SslMedError, match=complaint):
        export(sources(family), "timm", tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_a_folder_for_hugging_face_is_read_back_and_says_what_it_is(sources, tmp_path):
    source, folder = sources("timm_vit", 1), tmp_path / "hub"
    export(source, "huggingface", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again, x = load(folder, **ABOUT), image_for(source)
    for one, two in zip(again.network(x), source.backbone(x), strict=True):
        assert torch.equal(one, two)
    text = (folder / "README.md").read_text()
    for said in (
        "Apache-2.0",
        "whether it allows commercial use is not known",
        "0 to 255 grey level",
        "minus 0.4, 0.5, 0.6",
    ):
        assert said in text
    front = text.split("---\n")[1].splitlines()
    assert json.loads(next(line for line in front if line.startswith("tags: "))[6:])[-1] == "timm_vit"


def test_the_digest_of_a_folder_is_that_of_the_sums_of_its_files(tmp_path):
    case = next(one for one in cases_of("timm_vit") if one.folder)
    folder = case.write(tmp_path, case.made())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
    wanted = hashlib.sha256("".join(sums).encode()).hexdigest()
    assert convert(folder, "timm_vit", **ABOUT).card.method_config["sha256"] == wanted


@torch.no_grad()
def test_the_mixin_of_hugging_face_reads_the_folder(sources, tmp_path):
    pytest.importorskip("huggingface_hub")
    from ssl_med.hub import hub_model

    source, folder = sources("timm_vit", 1), tmp_path / "hub"
    export(source, "huggingface", folder)
    network, x = hub_model().from_pretrained(folder, strict=True), image_for(source)
    assert network.about["contract"]["mean"] == [0.4, 0.5, 0.6]
    for one, two in zip(network(x), source.backbone(x), strict=True):
        assert torch.equal(one, two)


# family, number of its case, sides of the images: 2D and 3D, convolutions and windows
TRACED = [
    ("timm_vit", 1, ()),
    ("models_genesis", 0, (16, 16, 8)),
    ("ct_fm", 0, (16, 16, 16)),
]
SWIN = pytest.param("swin_unetr", 0, (32, 32, 32), marks=pytest.mark.slow)


def small(source, sides):
    """With a contract for small images; (): its own."""
    contract = replace(source.contract, patch_size=sides or source.contract.patch_size)
    return replace(source, card=replace(source.card, contract=contract.to_dict()))


@pytest.mark.parametrize(("family", "number", "sides"), [*TRACED, SWIN])
@torch.no_grad()
def test_a_program_of_torch_export_gives_the_same_for_other_batches(family, number, sides, sources, tmp_path):
    source = small(sources(family, number), sides)
    export(source, "torch_export", tmp_path / "x.pt2")
    extra = {"card.json": ""}
    program = torch.export.load(str(tmp_path / "x.pt2"), extra_files=extra).module()
    assert json.loads(extra["card.json"])["method"] == family
    for batch in (1, 3):
        x = image_for(source, batch)
        for one, two in zip(program(x), Levels(source.backbone)(x), strict=True):
            same(one, two)


@pytest.mark.parametrize(("family", "number", "sides"), TRACED)
@torch.no_grad()
def test_onnx_gives_the_same_within_what_it_says(family, number, sides, sources, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    source = small(sources(family, number), sides)
    lines = export(source, "onnx", tmp_path / "x.onnx")
    assert f"within {TOLERANCE:g} of the largest one" in lines[1]
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = image_for(source, batch)
        found = session.run(None, {"image": x.numpy()})
        for one, two in zip(found, Levels(source.backbone)(x), strict=True):
            torch.testing.assert_close(torch.from_numpy(one), two, rtol=0, atol=TOLERANCE * float(two.abs().max()))


def test_onnx_names_the_extra_where_a_package_is_missing(sources, tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else found(name, *a))
    with pytest.raises(SslMedError, match=r"onnxscript; install the extra: pip install 'ssl-med\[onnx\]'"):
        export(sources("timm_vit"), "onnx", tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
