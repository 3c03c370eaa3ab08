"""Lists of MONAI transforms: what may be named, what is refused before work starts, and draws that depend on the seed alone."""

import random
import sys

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ssl_med.spec import DataSpec, SslMedError
from ssl_med.transforms.samples.lists import TransformList, variables_of
from ssl_med.transforms.samples.pipeline import Pipeline, own_globals
from ssl_med.transforms.samples.trial import check_pipeline

MASKS = DataSpec(name="lits", spatial_dims=3, in_channels=2, patch_size=(12, 10, 8), target="mask", class_names=("a",))
FILMS = DataSpec(name="films", spatial_dims=2, in_channels=1, patch_size=(12, 10), orientation="")
BOTH = ["image", "mask"]


def listed(*entries, spec=MASKS, **more):
    return TransformList(entries, "mine.yaml", variables=variables_of(spec, (0, 1)), **more)


def entry(name, **arguments):
    return {"_target_": name, **arguments}


BYTES = entry("CastToTyped", keys=["image"], dtype="uint8")
FLIP = entry("RandFlipd", keys=BOTH, prob=0.5, spatial_axis=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("RandFlipd", "entry 2 is 'RandFlipd'; it must be a mapping with _target_"),
        (entry("RandFlipdd", keys=BOTH), "entry 2: _target_ 'RandFlipdd' is unknown; did you mean 'RandFlipd'"),
        (entry("os.system", command="true"), "entry 2: _target_ 'os.system' lies outside .*data.allow=.os. allows"),
        (entry("monai.networks.nets.UNet"), "entry 2: _target_ 'monai.networks.nets.UNet' lies outside"),
        (entry("monai.transforms.spatial.array.np"), "is no transform"),
        (entry("monai.transforms.utils.rescale_array"), "is no transform"),
        (entry("Lambdad", keys=BOTH, func="eval"), "'Lambdad' runs other code or touches files"),
        (entry("LoadImaged", keys=BOTH), "'LoadImaged' runs other code or touches files.*files are read by data=NAME"),
        (entry("monai.transforms.SaveImaged", keys=BOTH), "touches files"),
        (entry("RandFlipd", keys=BOTH, probability=1), r"entry 2 \(RandFlipd\): argument 'probability' is unknown"),
        (entry("RandFlipd", prob=1), r"entry 2 \(RandFlipd\): argument 'keys' is missing"),
        (entry("RandGaussianNoised", keys=["image"], prob="x"), r"entry 2 \(RandGaussianNoised\): refuses its arguments"),
        (entry("RandFlipd", keys=["image", "label"]), "keys: 'label' is not in the samples of 'lits', which have image, mask"),
        (entry("RandFlipd", keys=["image"], prob=1), r"moves image alone; say keys: \[image, mask\]"),
        (entry("RandFlip", prob=1), r"entry 2 \(RandFlip\): takes an array; use RandFlipd with keys: \[image\]"),
        (entry("CenterSpatialCropd", keys=BOTH, roi_size=8), "makes image 2x8x8x8, .*ResizeWithPadOrCropd"),
        (entry("RepeatChanneld", keys=["image"], repeats=2), r"\(RepeatChanneld\) makes image 4x12x10x8, .* stay 2x12x10x8"),
        (BYTES, "makes image uint8, which must stay float32; add EnsureTyped"),
        (entry("DeleteItemsd", keys=["mask"]), r"\(DeleteItemsd\) takes mask out"),
        (entry("RandGaussianSmoothd", keys=BOTH, prob=0.1), r"\(RandGaussianSmoothd\) leaves mask with values"),
        (entry("RandRotated", keys=BOTH, range_x=0.3, mode="bilinear", prob=0.01), "leaves mask with values"),
        (entry("ScaleIntensityd", keys=["image"], minv="${low}"), r"'\$\{low\}' means nothing; there are: \$\{patch_size\}"),
        (entry("OneOf", transforms=[FLIP, BYTES]), r"\(OneOf\) makes image uint8"),
        (entry("Compose", transforms=[FLIP, entry("Zoomm")]), r"\(Compose\), within: _target_ 'Zoomm' is unknown; did you"),
        (entry("RandFlipAxesd", keys=BOTH, p=2), r"p is 2|'p' is 2"),
        (entry("RandFlipAxesd", keys=["image"]), r"moves image alone; say keys: \[image, mask\]"),
        (entry("RandSmallRotationd", keys=["image"]), r"moves image alone; say keys: \[image, mask\]"),
        (entry("RandChannelsd", keys=["image"], transform=FLIP), "argument 'transform' must be an array transform"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_entry_is_one_line(wrong, said):
    with pytest.raises(SslMedError, match=rf"^mine.yaml: .*{said}" if "entry" in said else said) as error:
        check_pipeline(listed(entry("ScaleIntensityd", keys=["image"]), wrong), MASKS)
    assert "entry 2" in str(error.value)


def test_shapes_and_types_may_change_on_the_way():
    fixed = listed(
        entry("CastToTyped", keys=["image"], dtype="float64"),
        entry("RandSpatialCropd", keys=BOTH, roi_size=[6, 6, 6]),
        entry("Resized", keys=BOTH, spatial_size="${patch_size}", mode=["trilinear", "nearest"]),
    )
    check_pipeline(fixed, MASKS)
    with pytest.raises(
        SslMedError, match=r"entry 3 \(Resized\) makes image 2x12x10x8"
    ):  # whole scans have other shapes
        check_pipeline(fixed, MASKS, whole=True)
    image, mask = Pipeline(fixed)(torch.rand(2, 12, 10, 8), torch.ones(1, 12, 10, 8))
    assert (image.dtype, image.shape, mask.shape) == (torch.float32, (2, 12, 10, 8), (1, 12, 10, 8))
    assert type(image) is type(mask) is torch.Tensor


def test_a_package_that_the_user_allows(tmp_path, monkeypatch):
    (tmp_path / "my_transforms.py").write_text(
        "import numpy as np\nfrom monai.transforms import MapTransform\nBroken = int\n"
        "class Shadedd(MapTransform):\n    def __call__(self, data):\n"
        "        return {**data, **{key: data[key] * np.random.rand() for key in self.keys}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = entry("my_transforms.Shadedd", keys=["image"])
    with pytest.raises(SslMedError, match=r"data.allow=\[my_transforms\] allows a package that you trust"):
        check_pipeline(listed(mine), MASKS)
    assert "my_transforms" not in sys.modules
    allowed = listed(mine, allow=("my_transforms",))
    check_pipeline(allowed, MASKS)
    for name, said in (("Broken", "is no transform"), ("Shaded", "did you mean 'Shadedd'|there are: ")):
        with pytest.raises(SslMedError, match=said):
            check_pipeline(listed(entry(f"my_transforms.{name}"), allow=("my_transforms",)), MASKS)
    with pytest.raises(SslMedError, match="not_there cannot be imported"):
        check_pipeline(listed(entry("not_there.X"), allow=("not_there",)), MASKS)
    found = []
    for _ in range(2):  # it draws from numpy's own generator, which is seeded for it and left as it was
        with own_globals(1, 2):
            found.append(Pipeline(allowed)(torch.ones(2, 4, 4, 4))[0])
    assert torch.equal(*found)


TURN = entry("RandAffined", keys=BOTH, prob=0.5, rotate_range=0.3, mode=["bilinear", "nearest"], padding_mode="border")
NOISE = entry("RandGaussianNoised", keys=["image"], prob=1)
NESTED = listed(
    entry("OneOf", transforms=[NOISE, entry("RandAdjustContrastd", keys=["image"], prob=1)]),
    entry("RandomOrder", transforms=[FLIP, entry("RandRotate90d", keys=BOTH, prob=0.5, spatial_axes=[0, 1])]),
    entry("Compose", transforms=[entry("RandZoomd", keys=BOTH, prob=0.5, mode=["trilinear", "nearest"]), TURN]),
    entry("RandChannelsd", keys=["image"], prob=0.8, transform=entry("RandGaussianSmooth", prob=0.9)),
    entry("RandCoarseDropoutd", keys=["image"], prob=0.5, holes=2, spatial_size=3),
)  # fmt: skip


def test_draws_depend_on_the_seed_alone_and_global_generators_stay():
    spec = DataSpec(name="x", spatial_dims=3, in_channels=2, patch_size=(8, 8, 8), target="mask", class_names=("a",))
    check_pipeline(NESTED, spec)
    image, mask = torch.rand(2, 8, 8, 8), (torch.rand(1, 8, 8, 8) > 0.5).float()
    kept = image.clone(), mask.clone()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first, other = Pipeline(NESTED), Pipeline(NESTED)
    found = []
    for pipeline, words in ((first, (0, 1)), (first, (0, 2)), (other, (0, 2)), (other, (0, 1)), (first, (0, 1))):
        with own_globals(*words):
            pipeline.seed(*words)
            found.append(pipeline(image, mask))
    assert torch.equal(image, kept[0])
    assert torch.equal(mask, kept[1])
    for a, b in ((0, 3), (0, 4), (1, 2)):
        assert all(torch.equal(x, y) for x, y in zip(found[a], found[b], strict=True))
    assert not torch.equal(found[0][0], found[1][0])
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_random_entries_are_left_out_where_nothing_may_be_random():
    mixed = listed(
        FLIP, entry("Compose", transforms=[entry("ScaleIntensityd", keys=["image"], maxv=2.0), FLIP]), random=False
    )
    assert [type(step.transform).__name__ for step in Pipeline(mixed).steps] == ["ScaleIntensityd"]


def test_transforms_see_where_voxels_lie():
    seen = []

    class Looking(mt.MapTransform):
        def __call__(self, data):
            seen.append(data["image"])
            return data

    pipeline = Pipeline(listed(FLIP))
    pipeline.steps = [type(pipeline.steps[0])(Looking(["image"]), "looking")]
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 5, 6, 7
    pipeline(torch.rand(1, 4, 4, 4), affine=affine)
    assert isinstance(seen[0], MetaTensor)
    assert seen[0].pixdim.tolist() == [2, 3, 4]
    assert seen[0].affine[:3, 3].tolist() == [-5, -6, 7]  # RAS


def test_what_only_blurs_may_leave_masks_alone():
    check_pipeline(listed(entry("RandSimulateLowResolutiond", keys=["image"], prob=0.5)), MASKS)


def test_images_without_masks():
    check_pipeline(
        listed(entry("RandFlipAxesd", keys=BOTH, axes="${mirror_axes}", allow_missing_keys=True), spec=FILMS), FILMS
    )
    with pytest.raises(SslMedError, match="'mask' is not in the samples of 'films', which have image"):
        check_pipeline(listed(entry("RandFlipAxesd", keys=BOTH, axes=[0]), spec=FILMS), FILMS)
