"""Files outside of any data set, found and prepared as a trained run prepares its own: the input of `ssl-med predict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from datamodules.core.crops import cut, pad_to, window_start
from datamodules.core.files import CHANNEL, channel_files, find_files, find_volumes, stem
from datamodules.core.image_samples import image_codes_of, resized
from datamodules.core.intensity import TOP, Norm, decode, norm_of
from datamodules.core.labelled import LabelledCases
from datamodules.core.placement import Placement
from datamodules.core.readers import check_inside
from datamodules.core.scans import ScanData
from datamodules.core.volumes import Placed, Sample
from datamodules.formats.grids import Array, Header
from datamodules.formats.pictures import PICTURES
from ssl_med.spec import DataSpec, SslMedError

_ONE_VALUE = 0.999  # share of an image that may lie at the ends of the intensity window before it is told


@dataclass(frozen=True)
class Incoming:
    """A scan or image to be answered: its name in the output, and one file a channel."""

    name: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """What a network sees of it, (C, *S), and how its answers find back; `remarks`: what is odd about it."""

    about: Incoming
    image: Tensor
    placement: Placement | None
    grid: Header | None
    remarks: tuple[str, ...]


class Reader:
    """Finds new scans or images and prepares them as the family of a run does.

    Args:
        data_class: family of the run's data.
        config: its settings.
        spec: contract of the images that the run was trained on.

    Raises:
        SslMedError: the family's samples are no whole scans or images.
    """

    def __init__(self, data_class: type[Any], config: Any, spec: DataSpec) -> None:
        self.spec = spec
        masks = issubclass(data_class, ScanData) and spec.target == "mask" and data_class.takes_whole
        if not masks and not issubclass(data_class, LabelledCases):
            raise SslMedError(
                f"a run on data={config.name} answers places that its data set marks, or arrays, and not files; test it on "
                "such data by ssl-med external"
            )
        self.data = data_class(
            replace(config, root="", store="", quarantine=""), labelled=True, batch_size=1, spec=spec
        )
        if config.transforms and spec.target == "mask":
            self._check_transforms()

    def _check_transforms(self) -> None:
        """Refuses transforms that move voxels: what they did to a scan is not undone on its mask."""
        from ssl_med.transforms.samples.pipeline import moves  # MONAI's transforms take seconds to import

        steps = [step for pipeline in self.data.transformed([]).pipelines for step in pipeline.steps]
        moving = next((step.name for step in steps if moves(step.transform)), "")
        if moving:
            raise SslMedError(
                f"{moving}: moves voxels, and answers cannot be brought back through it; predict needs a run without"
            )

    def find(self, place: Path, exclude: Sequence[str] = ()) -> tuple[list[Incoming], list[str]]:
        """What is to be answered at a file or below a folder, sorted by name; files that are left out.

        Args:
            place: the file or folder.
            exclude: patterns of file names or relative paths.

        Raises:
            SslMedError: nothing is there, or a scan lacks a channel.
        """
        if not place.exists():
            raise SslMedError(f"{place}: no such file or folder")
        root, paths = (place.parent, [place]) if place.is_file() else (place, self._below(place))
        named = [
            p for p in paths if any(fnmatch(x, one) for one in exclude for x in (p.name, str(p.relative_to(root))))
        ]
        paths = [path for path in paths if path not in named]
        if not paths:
            what = f"image ({', '.join(PICTURES)})" if self.spec.spatial_dims == 2 else "volume that can be read"
            raise SslMedError(f"{place}: holds no {what}{' besides those of exclude' if named else ''}")
        if self.spec.spatial_dims == 2:
            found = [Incoming(_name(path, root, path.stem), (str(path),)) for path in paths]
            left_out: list[str] = []
        else:
            found, left_out = self._scans(paths, root)
        return _distinct(found), [*map(str, named), *left_out]

    def _below(self, place: Path) -> list[Path]:
        return find_volumes(place) if self.spec.spatial_dims == 3 else find_files(place, self.data.reads)

    def _scans(self, paths: Sequence[Path], root: Path) -> tuple[list[Incoming], list[str]]:
        if self.spec.in_channels > 1:
            return self._joined(paths, root)
        names = {path: _name(path, root, stem(path)) for path in paths}
        channels = channel_files(names.values())
        numbered = [match for name in names.values() if (match := CHANNEL.fullmatch(name))]
        # _0000 is nnU-Net's name of the only channel; where other numbers stand too, it is a patient's number
        first = all(match[2] == "0000" for match in numbered)
        found, left_out = [], []
        for path, name in names.items():
            if name in channels and not name.endswith("_0000"):
                left_out.append(str(path))
            else:
                match = CHANNEL.fullmatch(name) if first or name in channels else None
                found.append(Incoming(match[1] if match else name, (str(path),)))
        return found, left_out

    def _joined(self, paths: Sequence[Path], root: Path) -> tuple[list[Incoming], list[str]]:
        """Scans of several channels: CASE_0000 ..., CASE_<channel name>, or one file that holds them all."""
        names, left_out = self.spec.channel_names, []
        groups: dict[str, dict[int, str]] = {}
        single: list[Incoming] = []
        for path in paths:
            found = self.data.channel_of(path)
            if found is not None:
                base, channel = found
                group = groups.setdefault(_name(path, root, base), {})
                if channel in group:
                    raise SslMedError(f"{path}: is a second file of its channel, beside {group[channel]}; keep one")
                group[channel] = str(path)
            elif path.is_file() and path.name.lower().endswith((".nii", ".nii.gz")) and self.data.holds_channels(path):
                single.append(Incoming(_name(path, root, stem(path)), (str(path),)))
            else:
                left_out.append(str(path))
        for name, files in groups.items():
            lacking = [names[k] if k < len(names) else str(k) for k in range(self.spec.in_channels) if k not in files]
            if lacking:
                raise SslMedError(
                    f"{next(iter(files.values()))}: its scan '{name}' lacks {', '.join(lacking)}; the run was trained on "
                    f"{', '.join(names)}, in files CASE_0000 ... or CASE_<channel>"
                )
        joined = [
            Incoming(name, tuple(files[k] for k in range(self.spec.in_channels))) for name, files in groups.items()
        ]
        if not joined and not single:
            raise SslMedError(
                f"{root}: no file says which channel it is; name files CASE_0000 ... CASE_{self.spec.in_channels - 1:04d}, in "
                f"the order {', '.join(names)}"
            )
        return [*joined, *single], left_out

    def read(self, about: Incoming) -> tuple[Prepared, Array | None]:
        """Prepares one scan or image; also the (4, 4) index to world of what was prepared, None for images.

        Raises:
            SslMedError: it cannot be read, or breaks the contract of the run's data.
        """
        return self._scan(about) if self.spec.spatial_dims == 3 else (self._image(about), None)

    def _scan(self, about: Incoming) -> tuple[Prepared, Array]:
        for path in about.files:
            check_inside(path, root=Path(path).parent)
        scan = self.data.new_scan(about.name, about.files)
        grid = self.data.image_grid(scan, about.files[0])
        loaded = self.data.load(scan)
        assert loaded.to_world is not None
        codes = loaded.codes[...]
        remarks = (*(remark.text for remark in grid.remarks), *_contrast(codes, self.spec))
        if self.spec.target != "mask":
            return Prepared(about, self._middle(codes, loaded.norm), None, grid, remarks), loaded.to_world
        placement = Placement.between(about.files[0], grid, loaded.to_world)
        return Prepared(about, decode(codes, loaded.norm), placement, grid, remarks), loaded.to_world

    def _image(self, about: Incoming) -> Prepared:
        (path,) = about.files
        codes = image_codes_of(path, self.data.read, self.spec.intensity)
        small = resized(codes, self.data.config.image_size)
        norm = norm_of(small, self.spec.intensity)
        whole = pad_to(small, self.spec.patch_size)
        remarks = _contrast(codes, self.spec)
        if self.spec.target != "mask":
            return Prepared(about, self._middle(whole, norm), None, None, remarks)
        before = tuple((w - s) // 2 for w, s in zip(whole.shape[1:], small.shape[1:], strict=True))
        placement = Placement.of_image(codes.shape[1:], small.shape[1:], (before[0], before[1]))
        return Prepared(about, decode(whole, norm), placement, None, remarks)

    def _middle(self, codes: Array, norm: Norm | None) -> Tensor:
        """The crop that evaluation takes where a class or findings are learned."""
        start = window_start(codes.shape[1:], self.spec.patch_size, None)
        return decode(cut(codes, start, self.spec.patch_size), norm)


class IncomingSet(Dataset[Any]):
    """Prepared scans or images in order, after the run's data.transforms, of which random ones act in training alone.

    One that cannot be prepared is what it is about, and the `SslMedError` that says why.
    """

    def __init__(self, reader: Reader, items: Sequence[Incoming]) -> None:
        self.items = items
        self._samples = reader.data.transformed(_Samples(reader, items))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Prepared | tuple[Incoming, SslMedError]:
        try:
            sample = self._samples[(0, index)]
        except SslMedError as error:
            return self.items[index], error
        found: Prepared = sample["prepared"]
        return replace(found, image=sample["image"])


class _Samples(Dataset[Sample]):
    """Samples as data.transforms take them, by (epoch, index)."""

    def __init__(self, reader: Reader, items: Sequence[Incoming]) -> None:
        self.reader, self.items = reader, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        return self.placed(key)[0]

    def placed(self, key: tuple[int, int], size: tuple[int, ...] | None = None) -> Placed:
        """A whole scan or image and where it lies; there is nothing around it."""
        index = key[1]
        found, to_world = self.reader.read(self.items[index])
        sample: Sample = {"id": found.about.name, "index": index, "image": found.image, "prepared": found}
        return sample, None, to_world


def _name(path: Path, root: Path, base: str) -> str:
    """Name of a case below the output folder: as the file lies below the input."""
    return (path.parent.relative_to(root) / base).as_posix() if path != root else base


def _distinct(found: list[Incoming]) -> list[Incoming]:
    seen: dict[str, Incoming] = {}
    for one in found:
        if one.name in seen:
            raise SslMedError(
                f"{one.files[0]}: its answer would be called {one.name}, as that of {seen[one.name].files[0]}; rename one"
            )
        seen[one.name] = one
    return [seen[name] for name in sorted(seen)]


def _contrast(codes: Array, spec: DataSpec) -> tuple[str, ...]:
    """That an image lies outside of the intensity window, so that the network sees nothing of it."""
    inside = (codes > 0) & (codes < TOP)
    share = float(inside.mean())
    if spec.intensity.kind != "window" or share >= 1 - _ONE_VALUE:
        return ()
    window = f"{spec.intensity.low:g} to {spec.intensity.high:g} {spec.intensity.unit}"
    return (f"hardly a value lies inside the run's window of {window}: other units, or another modality?",)
