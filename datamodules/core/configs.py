"""Settings that all families have, and those of volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from ssl_med.ledger import salted
from ssl_med.ranges import BelowOne, Millimetres, NonNegative, Range, Seed, Share, Side, StoredValue
from ssl_med.setting import SET, Affects, Other, setting
from ssl_med.spec import Intensity, Normalisation


def _place(folder: str) -> str:
    return str(Path(folder).resolve())


def content_name(file: str) -> str:
    """A file that other runs may have by another name; one that is not there keeps its name."""
    return salted(Path(file).read_bytes()) if file and Path(file).is_file() else file


LABELLED = {"run": ("finetune", "probe", "features")}  # needs of what matters where labels are learned
DRAWN = {"split": Other("file", "folders", "mg", "pcrl")}  # these name all three parts
DRAWN_TOO = ({"tuning_share": SET}, {"pretrain_share": SET})
_OF_DATASET = {"normalisation": ("dataset",)}
_STARTED = {"run": ("finetune", "probe", "external"), ".init": Other("scratch")}


@dataclass
class CommonConfig:
    """Settings of every family; one without a mark counts as changing everything, so that nothing outdated is read."""

    AFFECTS: ClassVar[Affects] = "store"
    name: str = ""
    """file name in datamodules"""
    root: str = setting(default="", affects="sample", named=_place, path=True)
    """folder of the data set as it is distributed"""
    # crops are the same from a store, but its scans are mixed more freely; where it lies does not matter
    store: str = setting(default="", affects="result", named=bool, path=True)
    """folder made by `ssl-med prepare`: voxels are read from it, names, tables and lists from the root"""
    patch_size: tuple[Side, ...] = ()
    """size of a crop in voxels"""
    intensity_low: StoredValue = -1000.0
    """lower end of the intensity window (CT: HU; MRI: percentile of the non-zero voxels)"""
    intensity_high: StoredValue = 1000.0
    """upper end"""
    normalisation: Normalisation = setting(default="unit", affects="sample", before="unit")
    """what becomes of clipped intensities: unit, [0, 1]; zscore, mean 0 and deviation 1 of each image and channel;
    zscore_nonzero, the same of the voxels that are not 0, while zeros stay 0 (MRI); dataset, less intensity_mean and over
    intensity_sd (CT)"""
    intensity_mean: StoredValue = setting(default=0.0, affects="sample", before=0.0, needs=_OF_DATASET)
    """normalisation=dataset: mean of the foreground, in the unit of the files; `ssl-med plan` measures it"""
    intensity_sd: Annotated[float, Range(above=0, high=1e9)] = setting(
        default=1.0, affects="sample", before=1.0, needs=_OF_DATASET
    )
    """normalisation=dataset: standard deviation of the foreground"""
    split: str = setting(default="random", affects="result")
    """random, file, or one the family offers"""
    split_file: str = setting(default="", affects="result", path=True, needs={"split": ("file",)})
    """split=file: JSON with train, val and test lists of subject ids, or FILE:key"""
    split_ratios: tuple[Share, Share, Share] = setting(default=(0.7, 0.1, 0.2), affects="result", needs=DRAWN)
    """split=random: shares of the subjects"""
    split_seed: Seed = setting(default=0, affects="result", needs=(DRAWN, *DRAWN_TOO))
    """split=random: its own seed, so that all training seeds share one test set"""
    test_is_val: bool = setting(default=False, affects="result", needs={"split": ("file",)})
    """split=file without a test list: test on the val list, and validate on nobody"""
    cache_gb: NonNegative = setting(default=4.0, affects="nothing")
    """memory for decoded scans, per loader process"""
    pretrain_share: BelowOne = setting(default=0.0, affects="result")
    """PCRL's semi-supervised splits on one data set, 9:1 is 0.9: this share of the training subjects is for pretraining
    alone, the rest for labels alone; give it to both commands; 0: both use all"""
    tuning_share: BelowOne = setting(default=0.0, affects="result", needs={"run": ("finetune", "probe")})
    """finetune, probe: put the test part away to choose settings, and test on the validation part or, where there is none,
    on this share of the training subjects; 0: off"""
    share_by: Literal["subject", "image"] = setting(default="subject", affects="result", needs={"pretrain_share": SET})
    """pretrain_share counts subjects; image: scans or images, as PCRL's lists, and patients may then be on both sides"""
    quarantine: str = setting(default="", affects="result", named=content_name, path=True)
    """file of `ssl-med check` that lists what to leave out; the split is made before, so it stays the same"""
    quarantine_budget: Share = setting(default=0.05, affects="result", needs={"quarantine": SET})
    """largest share of the cases that the quarantine may leave out"""
    transforms: tuple[Any, ...] | str = setting(default=(), affects="sample", before=[])
    """MONAI transforms of every sample after it was read and cut, [{_target_: NAME, keys: [image, mask], ...}, ...], or the
    name of a list (ssl-med list augment), or a file NAME.yaml; random ones act in training alone"""
    allow: tuple[str, ...] = setting(default=(), affects="nothing", needs=({"transforms": SET}, {"task.augment": SET}))
    """packages besides MONAI whose transforms data.transforms and task.augment may name: their code runs"""
    from_card: bool = setting(
        default=False, affects="nothing", needs={"run": ("finetune", "probe"), ".init": Other("scratch")}
    )
    """finetune, probe: voxel size, orientation, intensities and patch size are those of the weights' card, unless the command
    line sets them"""
    allow_overlap: bool = setting(
        default=False, affects="result", needs={"run": ("finetune", "probe", "external"), ".init": Other("scratch")}
    )
    """finetune: go on when the pretraining saw subjects or files of val and test; every report says so"""

    def intensity_of(
        self, kind: Literal["window", "percentile"], unit: str, *, low: float | None = None, high: float | None = None
    ) -> Intensity:
        """What the settings of intensity say for images of this kind; `low` and `high` where the settings leave them open.

        Raises:
            SslMedError: they contradict each other.
        """
        low = self.intensity_low if low is None else low
        high = self.intensity_high if high is None else high
        return Intensity(kind, low, high, unit, self.normalisation, self.intensity_mean, self.intensity_sd)


@dataclass
class VolumeConfig(CommonConfig):
    """Settings of volumetric families."""

    spacing_mm: tuple[Millimetres, ...] | None = None
    """voxel size to resample to; null: as acquired"""
    orientation: str = "LPS"
    """patient directions in which the axes x, y, z increase"""
    crops_per_volume: Annotated[int, Range(1, 10**6)] = setting(default=16, affects="sample")
    """crops of each scan in an epoch"""
    mixed_volumes: Annotated[int, Range(1, 10**6)] = setting(default=8, affects="result")
    """scans whose crops are shuffled together when not all scans fit into the cache"""
