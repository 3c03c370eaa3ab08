"""The contract between data and method: what a batch holds and what its numbers mean."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ssl_med.reading import mismatch

if TYPE_CHECKING:  # torch takes seconds to import, and a refused request needs this module alone
    from torch import Tensor

Target = Literal["none", "class", "multilabel", "mask"]
Normalisation = Literal["unit", "zscore", "zscore_nonzero", "dataset"]
LONGEST_LINE = 3000  # letters of a complaint
RGB = ("red", "green", "blue")  # channel_names of coloured images
AXIS_NAMES = {2: ("row", "column"), 3: ("x", "y", "z")}


class SslMedError(ValueError):
    """The request is wrong: one clear line that names the file or key and the remedy. The command exits with 2.

    It stays one line whatever a name in it holds, and of a very long one the middle is left out.
    """

    def __str__(self) -> str:
        line = " ".join(super().__str__().splitlines())
        return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 3 :]}"


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line; its type when it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Batch(TypedDict, total=False):
    """What every data module yields. `label` or `mask` is present when the split is labelled.

    * image: (B, C, *S) float32, intensities scaled as `Intensity` says.
    * image2: (B, C, *S) float32, a second crop that overlaps `image`; only for a method that needs crop pairs.
    * id: B names of the samples, never a patient's name. * index: (B,) int64, position in the split.
    * instance: (B,) int64, which of the positions of `Need.positions` the crop shows; scan: (B, C, *thumbnail) float32, the
      whole scan that it is cut from, shrunk; case: (B,) int64, number of that scan in the split.
    * case, subject: (B,) int64, in labelled evaluation: number of the sample's scan and of its subject in the part.
    * spacing: (B, spatial_dims) float32, size of the voxels of `image` in mm; with masks, where it is known.
    * lesion: (B,) int64, in the evaluation of candidates: number within its scan of the lesion that a candidate marks, -1 for
      none, -2 at a finding that is not to be judged; lesions: (B,) int64, number of lesions of that scan; silent: (B, 2) int64,
      the scans of the part that have no candidate and their lesions, the same in every row.
    * label: (B,) int64 for target "class", (B, K) float32 for "multilabel".
    * mask: (B, K, *S) float32 in {0, 1}, one channel per entry of `class_names` (regions may overlap).
    """

    image: Tensor
    image2: Tensor
    id: list[str]
    index: Tensor
    instance: Tensor
    scan: Tensor
    case: Tensor
    subject: Tensor
    spacing: Tensor
    lesion: Tensor
    lesions: Tensor
    silent: Tensor
    label: Tensor
    mask: Tensor


# what each key that a method may need means, for who writes a loader of his own
BATCH_KEYS = {
    "image": "(B, C, *S) float32, images with values as the spec's intensity says, in [0, 1] unless standardised",
    "image2": "(B, C, *S) float32, a second crop of the same scan that overlaps image",
    "index": "(B,) int64, number of the sample in the data set, the same in every epoch",
    "instance": "(B,) int64, which of the positions the crop shows",
    "scan": "(B, C, *thumbnail) float32, the whole scan that the crop is cut from, shrunk",
    "case": "(B,) int64, number of that scan in the data set",
}


@dataclass(frozen=True)
class Intensity:
    """How raw values become network input.

    * window: clip to [low, high] in `unit`, then scale to [0, 1] (CT: HU; images: grey levels).
    * percentile: low and high are percentiles of the non-zero voxels of each volume and channel; clip, scale to [0, 1],
      zeros stay 0 (MRI after brain extraction, whose units are arbitrary).

    After the clipping `normalisation` decides what the network sees:

    * unit: values in [0, 1]. * zscore: less the mean and over the standard deviation of each image and channel.
    * zscore_nonzero: the same of the voxels that are not 0; those stay 0.
    * dataset: less `mean` and over `sd`, which are in `unit` and the same for every image; needs a window.
    """

    kind: Literal["window", "percentile"] = "window"
    low: float = -1000.0
    high: float = 1000.0
    unit: str = "HU"
    normalisation: Normalisation = "unit"
    mean: float = 0.0
    sd: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise SslMedError(f"intensity: low {self.low:g} must be below high {self.high:g}")
        if self.kind == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise SslMedError("intensity: percentiles lie between 0 and 100")
        if self.normalisation == "dataset" and self.kind != "window":
            raise SslMedError(
                "data.normalisation=dataset has one mean for all images, but percentiles are of each image's own units; take "
                "data.normalisation=zscore"
            )
        if not self.sd > 0:
            raise SslMedError(f"data.intensity_sd is {self.sd:g}; it must be above 0")

    @property
    def standardised(self) -> bool:
        """Whether values have a mean near 0 and a deviation near 1, in place of the range [0, 1]."""
        return self.normalisation != "unit"

    def to_dict(self) -> dict[str, Any]:
        """Plain types; without what says that values lie in [0, 1], as cards had it before."""
        values = asdict(self)
        if self.normalisation != "dataset":
            del values["mean"], values["sd"]
        if not self.standardised:
            del values["normalisation"]
        return values


@dataclass(frozen=True)
class DataSpec:
    """What a data module promises; network dims, head width, metrics and windows are derived from it.

    * patch_size: the spatial size *S of `image`, in voxels, ordered as `axis_order`.
    * spacing_mm: voxel size along each axis after loading; None = as acquired (differs between scans).
    * orientation: the patient direction in which each axis of a 3D array increases, "LPS" as in ITK, DICOM and the LUNA16
      world coordinates; "" for images.
    * class_names: classes (target "class"), findings ("multilabel") or mask channels ("mask").
    * group_key: the unit that may never straddle a split.
    * exclusive: of masks, a voxel lies in one region at most; False: regions may overlap.
    """

    name: str
    spatial_dims: int
    in_channels: int
    patch_size: tuple[int, ...]
    intensity: Intensity = field(default_factory=Intensity)
    spacing_mm: tuple[float, ...] | None = None
    orientation: str = "LPS"
    channel_names: tuple[str, ...] = ()
    target: Target = "none"
    class_names: tuple[str, ...] = ()
    group_key: str = "patient"
    exclusive: bool = False

    def __post_init__(self) -> None:
        if self.spatial_dims not in (2, 3):
            raise SslMedError(f"spatial_dims is {self.spatial_dims}; ssl_med works in 2 or 3 dimensions")
        if len(self.patch_size) != self.spatial_dims:
            raise SslMedError(
                f"data.patch_size {list(self.patch_size)} has {len(self.patch_size)} numbers; "
                f"the data is {self.spatial_dims}D and needs {self.spatial_dims}"
            )
        if any(size < 1 for size in self.patch_size) or self.voxels >= 2**31:
            raise SslMedError(
                f"data.patch_size {list(self.patch_size)} must be positive and hold fewer than 2^31 voxels"
            )
        for what, names in (("class", self.class_names), ("channel", self.channel_names)):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise SslMedError(f"data '{self.name}': two of the {what} names are '{twice}'; give each its own")

    @property
    def coloured(self) -> bool:
        """Whether the channels are red, green and blue."""
        return self.channel_names == RGB

    @property
    def axis_order(self) -> tuple[str, ...]:
        """Names of the spatial axes of `image` after batch and channel."""
        return AXIS_NAMES[self.spatial_dims]

    @property
    def voxels(self) -> int:
        """Number of voxels in one patch."""
        return math.prod(self.patch_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON and yaml."""
        values = {**asdict(self), "intensity": self.intensity.to_dict(), "axis_order": self.axis_order}
        if not self.exclusive:
            del values["exclusive"]  # as cards had it before
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DataSpec:
        """Inverse of `to_dict`.

        Raises:
            SslMedError: a key is missing, unknown or of another type.
        """
        values = {key: value for key, value in data.items() if key != "axis_order"}
        if wrong := mismatch(cls, values, "spec"):
            raise SslMedError(wrong)
        values["intensity"] = Intensity(**values.get("intensity", {}))
        for key in ("patch_size", "channel_names", "class_names", "spacing_mm"):
            if values.get(key) is not None:
                values[key] = tuple(values[key])
        return cls(**values)


@dataclass(frozen=True)
class Positions:
    """Anatomical positions that crops are taken at: the same shares of the way through every scan.

    Crops at positions pass no content filter.

    * count: number of positions, spread evenly.
    * thumbnail: size *T to which the whole scan is shrunk.
    * border: share of the way at each end of an axis that has no position.
    * share: side of a crop as a share of the scan's; 0: patch_size in voxels, at most half of the scan.
    * scale: range of a random factor on a crop's first two sides. * jitter: largest random shift, as a share of its sides.
    """

    count: int
    thumbnail: tuple[int, ...]
    border: float = 0.0
    share: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    jitter: float = 0.0


@dataclass(frozen=True)
class Need:
    """What a method requires from the crop loader beyond one crop per sample.

    * pair: yield `image` and `image2`, two crops of one volume with overlap above `min_iou`.
    * pair_scales: sizes a pair may have before it is resampled to patch_size, as multiples of patch_size per axis.
    * equal_pairs: the two crops of a pair have the same of these sizes; else each has its own.
    * positions: yield `image` at one of them, with `instance`, `scan` and `case`; not together with pairs.
    * fixed: every training epoch yields the same crops, so that what is remembered by `batch["index"]` stays true.
    """

    pair: bool = False
    min_iou: float = 0.2
    pair_scales: tuple[tuple[float, ...], ...] = ()
    equal_pairs: bool = True
    positions: Positions | None = None
    fixed: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of a batch besides `image` that hold what is asked for."""
        asked = {
            ("image2",): self.pair,
            ("instance", "scan", "case"): self.positions is not None,
            ("index",): self.fixed,
        }
        return tuple(key for keys, needed in asked.items() if needed for key in keys)
