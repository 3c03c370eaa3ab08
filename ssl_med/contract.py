"""What an encoder's images must be: the input contract that stands in the card of weights, with the transform that keeps it.

Two steps lie between a scan and the first convolution. The *data* bring values into a range: `scaling`. The *network* may then
subtract a mean and divide by a standard deviation for each channel (`backbone.input_mean`, `backbone.input_std`): that step
is part of the network, so that it is exact at the borders of an image too, where zero padding follows it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ssl_med.reading import mismatch
from ssl_med.spec import AXIS_NAMES, DataSpec, Intensity, Normalisation, SslMedError

if TYPE_CHECKING:  # torch takes seconds to import
    from collections.abc import Callable

    from torch import Tensor

Scaling = Literal["window", "percentile", "zscore"]
Over = Literal["image", "nonzero", "positive"]


@dataclass(frozen=True)
class InputContract:
    """What images an encoder was trained on.

    * modality: "CT", "MR", "X-ray", "photograph", ...; "": any.
    * scaling: what is done to raw values. window: clip to [low, high] in `unit` and scale to [0, 1]; percentile: the same with
      percentiles of the non-zero voxels; zscore: subtract the mean and divide by the standard deviation of each image and
      channel, taken `over` all voxels, those that are not zero, or those above zero; all other voxels become 0.
    * mean, std: by which the network itself normalises each channel after that scaling; empty: it does not.
    * patch_size: sides that the encoder was trained on, in voxels, ordered as our axes: (row, column) or (x, y, z).
    * spacing_mm: voxel size along the same axes; None: as acquired, or not said.
    * orientation: direction in which each axis increases, such as LPS; "" for images.
    * channels: names. * padding: value outside the scan, in `unit`; None: not said.
    * notes: what else must be known, a line each.
    * after: what follows a window or percentiles, as `Intensity.normalisation`, with `after_mean` and `after_sd` of a data set.
    """

    modality: str
    patch_size: tuple[int, ...]
    scaling: Scaling = "window"
    low: float = 0.0
    high: float = 255.0
    unit: str = "grey level"
    over: Over = "image"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    orientation: str = ""
    channels: tuple[str, ...] = ()
    padding: float | None = None
    notes: tuple[str, ...] = ()
    after: Normalisation = "unit"
    after_mean: float = 0.0
    after_sd: float = 1.0

    def __post_init__(self) -> None:
        if self.scaling != "zscore" and not self.low < self.high:
            raise SslMedError(f"contract: low {self.low:g} must be below high {self.high:g}")
        if len(self.mean) != len(self.std) or any(value <= 0 for value in self.std):
            raise SslMedError(f"contract: mean {list(self.mean)} and std {list(self.std)} must be pairs, std above 0")

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def axis_order(self) -> tuple[str, ...]:
        """Names of the spatial axes after batch and channel."""
        return AXIS_NAMES[self.spatial_dims]

    def intensity(self) -> Intensity:
        """The scaling as our data modules have it."""
        if self.scaling == "zscore":
            return Intensity(
                "percentile", 0.0, 100.0, self.unit, "zscore" if self.over == "image" else "zscore_nonzero"
            )
        return Intensity(self.scaling, self.low, self.high, self.unit, self.after, self.after_mean, self.after_sd)

    def spec(self, name: str, *, in_channels: int) -> DataSpec:
        """The data that keep this contract."""
        return DataSpec(
            name=name,
            spatial_dims=self.spatial_dims,
            in_channels=in_channels,
            patch_size=self.patch_size,
            intensity=self.intensity(),
            spacing_mm=self.spacing_mm,
            orientation=self.orientation,
            channel_names=self.channels if len(self.channels) == in_channels else (),
        )

    @classmethod
    def of(cls, spec: DataSpec) -> InputContract:
        """The contract of an encoder that was pretrained here, from its data."""
        intensity = spec.intensity
        return cls(
            modality="CT" if intensity.unit == "HU" else "",
            patch_size=spec.patch_size,
            scaling=intensity.kind,
            low=intensity.low,
            high=intensity.high,
            unit=intensity.unit,
            after=intensity.normalisation,
            after_mean=intensity.mean,
            after_sd=intensity.sd,
            spacing_mm=spec.spacing_mm,
            orientation=spec.orientation,
            channels=spec.channel_names,
        )

    def differences(self, spec: DataSpec) -> tuple[str, ...]:
        """A line for each way in which data break the contract; patches of another size and more channels do not."""
        mine, lines = self.spec("", in_channels=spec.in_channels), []
        if spec.spatial_dims != self.spatial_dims:
            lines.append(
                f"dimensions differ: the weights are for {self.spatial_dims}D images, the data are {spec.spatial_dims}D"
            )
        if spec.intensity != mine.intensity:
            lines.append(
                f"intensity differs: the weights expect {_words(mine.intensity)}, the data have {_words(spec.intensity)}"
            )
        same_axes = spec.spatial_dims == self.spatial_dims
        if same_axes and self.spacing_mm is not None and not _close(spec.spacing_mm, self.spacing_mm):
            found = "as acquired" if spec.spacing_mm is None else f"{_list(spec.spacing_mm)} mm"
            lines.append(f"spacing_mm differs: the weights expect {_list(self.spacing_mm)} mm, the data have {found}")
        if same_axes and self.orientation and spec.orientation != self.orientation:
            lines.append(
                f"orientation differs: the weights expect {self.orientation}, the data have {spec.orientation or 'none'}"
            )
        return tuple(lines)

    def transform(self) -> Callable[[Tensor], Tensor]:
        """Raw values -> what the network takes: (B, C, *S) in `unit` -> (B, C, *S) float32.

        Resampling, reorientation and cutting are not part of it; `mean` and `std` are neither, for the network applies them.
        """
        return self._scaled

    def _scaled(self, x: Tensor) -> Tensor:
        x = x.float()
        if self.scaling == "zscore":
            return _zscore(x, {"image": x.isfinite(), "positive": x > 0, "nonzero": x != 0}[self.over])
        unit = self._unit(x)
        if self.after == "dataset":
            return (unit * (self.high - self.low) + self.low - self.after_mean) / self.after_sd
        return (
            unit if self.after == "unit" else _zscore(unit, x != 0 if self.after == "zscore_nonzero" else x.isfinite())
        )

    def _unit(self, x: Tensor) -> Tensor:
        """Clipped to the window, or to percentiles of the non-zero voxels of each image and channel; scaled to [0, 1]."""
        if self.scaling == "window":
            return (x.clamp(self.low, self.high) - self.low) / (self.high - self.low)
        result = x.new_zeros(x.shape)
        for image, out in zip(x.flatten(0, 1), result.flatten(0, 1), strict=True):
            values = image[image != 0]
            if not values.numel():
                continue
            low, high = (_percentile(values, share) for share in (self.low, self.high))
            out[image != 0] = (values.clamp(low, high) - low) / (high - low) if high > low else 0.0
        return result

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; without `after` where nothing follows, as cards had it before."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return values if self.after != "unit" else {k: v for k, v in values.items() if not k.startswith("after")}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> InputContract:
        """Inverse of `to_dict`.

        Raises:
            SslMedError: a key is missing, unknown or of another type.
        """
        if wrong := mismatch(cls, data, "contract"):
            raise SslMedError(wrong)
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**values)

    def lines(self) -> list[str]:
        """For people: a line for each thing that is said."""
        scaling = {
            "window": f"{self.low:g} to {self.high:g} {self.unit}, scaled to [0, 1]",
            "percentile": f"percentiles {self.low:g} to {self.high:g} of the non-zero voxels, scaled to [0, 1]",
            "zscore": f"z-score over {'all' if self.over == 'image' else self.over} voxels of each image and channel",
        }[self.scaling]
        if self.after != "unit":
            scaling = f"{scaling}, then {_words(self.intensity()).rpartition(', then ')[2]}"
        found = {
            "modality": self.modality or "any",
            "intensity": scaling,
            "then in the network": f"minus {_list(self.mean)}, divided by {_list(self.std)}" if self.mean else "",
            "spacing": f"{_list(self.spacing_mm)} mm" if self.spacing_mm else "as acquired, or not said",
            "orientation": self.orientation,
            "axes": ", ".join(self.axis_order),
            "channels": ", ".join(self.channels),
            "padding": f"{self.padding:g} {self.unit}".strip() if self.padding is not None else "",
            "patch": " x ".join(map(str, self.patch_size)),
        }
        return [f"{key}: {text}" for key, text in found.items() if text] + [f"note: {note}" for note in self.notes]


def _zscore(x: Tensor, chosen: Tensor) -> Tensor:
    """(B, C, *S) less the mean and over the deviation of the chosen voxels of each image and channel; the others are 0."""
    result = x.new_zeros(x.shape)
    for image, mask, out in zip(x.flatten(0, 1), chosen.flatten(0, 1), result.flatten(0, 1), strict=True):
        values = image[mask]
        if values.numel() and float(deviation := values.std(correction=0)) > 0:
            out[mask] = (values - values.mean()) / deviation
    return result


def _percentile(values: Tensor, share: float) -> float:
    """Linear between ranks, as numpy has it; torch.quantile takes no more than 16 million values."""
    ordered = values.sort().values
    place = share / 100 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


def _close(found: tuple[float, ...] | None, wanted: tuple[float, ...]) -> bool:
    return found is not None and all(abs(a - b) <= 1e-3 * b for a, b in zip(found, wanted, strict=True))


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _words(intensity: Intensity) -> str:
    after = {
        "unit": "",
        "zscore": ", then z-score of each image",
        "zscore_nonzero": ", then z-score of the voxels that are not 0",
        "dataset": f", then minus {intensity.mean:g}, divided by {intensity.sd:g}",
    }[intensity.normalisation]
    return f"{intensity.kind} {intensity.low:g} to {intensity.high:g} {intensity.unit}".rstrip() + after
