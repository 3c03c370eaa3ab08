"""Any data set of volumes that a datalist of MONAI names, with masks, classes or findings; terms: see its distributor.

Expected below the root: the files that a JSON file lists under training, validation and test (or testing), each row with
image (a file, or a list of one file a channel) and label or mask (a label map), paths relative to the root. The file may hold
modality, labels ({number: name}, or nnU-Net's {name: number or numbers}), and fold in each row; a row's subject is a patient,
else each row is one. Rows without a label are for pretraining. A label that is a number is the class of the scan, a list of
0, 1 and null its findings; then labels may also be a list of names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.core import identities
from datamodules.core.base import MedicalData
from datamodules.core.cases import AbsentError
from datamodules.core.configs import content_name
from datamodules.core.datalist import (
    MASKS,
    NAMES,
    class_names_of,
    images_of,
    label_of_row,
    listed_split,
    mask_of,
    modalities_of,
    read_datalist,
    rows_of,
    target_of,
)
from datamodules.core.decathlon import Listed, Task, distinct, read_labels
from datamodules.core.files import spelled, stem
from datamodules.core.labelled import LabelledCases, LabelledScans
from datamodules.core.readers import VOLUME_ENDINGS
from datamodules.core.splits import Split
from datamodules.core.volumes import Cache
from datamodules.formats.grids import Header, Volume
from datamodules.formats.pictures import PICTURES
from datamodules.msd import MsdConfig, MsdData, MsdScan
from ssl_med.ranges import Range
from ssl_med.setting import setting
from ssl_med.spec import DataSpec, SslMedError, Target
from ssl_med.transforms.samples.lists import TransformList

_OWN = "datalist"


@dataclass
class MonaiConfig(MsdConfig):
    """Channels and classes are those of the datalist unless chosen here."""

    datalist: str = setting(default="", affects="result", named=content_name, path=True)
    """JSON file with the lists training, validation and test; empty: datalist.json or dataset.json below data.root"""
    labels: dict[str, Any] = setting(default_factory=dict)
    """class name -> number in the label maps, or a list of numbers, {liver: [1, 2], tumour: 2}; of scans with a class or
    findings, their numbers from 0, {normal: 0, sick: 1}; empty: those of the datalist"""
    preprocess: tuple[Any, ...] | str = ()
    """MONAI transforms of each whole scan after it was read, [{_target_: Spacingd, keys: [image, label], ...}, ...], none of
    them random, or a file NAME.yaml; intensities are scaled afterwards"""
    split: str = setting(default=_OWN, affects="result")
    """datalist: the lists of the file, parts that it does not name cut from training by data.split_ratios; random, file"""
    fold: Annotated[int, Range(0, 10**4, special=(-1,))] = setting(default=-1, affects="result")
    """split=datalist: training rows of this fold validate; -1: the list validation does"""


@dataclass(frozen=True)
class MonaiScan(MsdScan):
    """A row.

    * part: the list that it is in. * fold: its fold, -1 for none. * key: what it calls its label map.
    * label: (number of the class,) or one value a finding, nan where it is not known.
    """

    part: str = "train"
    fold: int = -1
    key: str = MASKS[0]
    label: tuple[float, ...] = ()


class MonaiData(LabelledCases, MsdData):
    """Rows of a datalist."""

    Config = MonaiConfig
    layout = "the files that a datalist of MONAI names"
    splits = (_OWN,)
    public_names = identities.HASHED
    store_keys = (*MsdData.store_keys, "preprocess")

    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(config, **options)
        self.rows: dict[str, tuple[str, Mapping[str, Any]]] = {}  # case -> its list and row
        self.steps = _steps(config)
        self._last: tuple[tuple[str, bool], list[tuple[str, Volume]], Volume | None] | None = None

    def new_scan(self, name: str, files: tuple[str, ...]) -> Any:
        """As a row without a label."""
        scan = super().new_scan(name, files)
        return MonaiScan(scan.name, scan.subject, scan.images, separate=scan.separate)

    @classmethod
    def make_spec(cls, config: Any, *, labelled: bool) -> DataSpec:
        """Channels and classes of the datalist; without a root one nameless channel and class."""
        if config.fold >= 0 and config.split != _OWN:
            raise SslMedError(f"data.fold has no effect with data.split={config.split}; leave it out")
        _steps(config)
        target = cls.target(config) if labelled else "none"
        if target not in ("class", "multilabel"):
            return super().make_spec(config, labelled=labelled)
        if config.classes:
            raise SslMedError("data.classes chooses masks, and these scans have classes or findings; leave it out")
        path, tree = read_datalist(cls.located(config))
        rows = [row for _, row in rows_of(path, tree)]
        names = class_names_of(path, config.labels or tree.get("labels"), rows)
        return replace(super().make_spec(config, labelled=False), target=target, class_names=names)

    @classmethod
    def target(cls, config: Any) -> Target:
        """What the labels of the datalist are; masks where there is no root yet."""
        if not config.root:
            return "mask"
        path, tree = read_datalist(cls.located(config))
        return target_of(path, [row for _, row in rows_of(path, tree)])

    @classmethod
    def begins(cls, folder: Path, config: Any) -> bool:
        """Where the first path of the datalist leads somewhere, or where a datalist lies."""
        if not config.datalist:
            return any((folder / name).is_file() for name in NAMES)
        path, tree = read_datalist(config)
        first = next((images_of(row)[0] for _, row in rows_of(path, tree)), "")
        return bool(first) and (folder / first).exists()

    @classmethod
    def task_of(cls, config: Any) -> Task:
        """What the datalist says."""
        path, tree = read_datalist(config)
        rows = [row for _, row in rows_of(path, tree)]
        channels = distinct(modalities_of(path, tree, rows))
        if target_of(path, rows) in ("class", "multilabel"):  # numbers of labels are no values of voxels
            return Task(Path(config.root), channels, {}, {}, None, source=str(path))
        try:
            labels, unions = read_labels(config.labels or tree.get("labels") or {})
        except (TypeError, ValueError, AttributeError):
            where = "data.labels" if config.labels else f"{path}: 'labels'"
            raise SslMedError(f"{where} must name classes and their numbers, {{liver: 1, tumour: 2}}") from None
        if not labels and any(mask_of(row) for row in rows):
            raise SslMedError(f"{path}: has no 'labels'; name them, data.labels={{liver: 1, tumour: 2}}")
        named = {number: name for number, name in sorted(labels.items()) if number}
        return Task(Path(config.root), channels, named, unions, None, source=str(path))

    def listed(self, task: Task, root: Path) -> list[Listed]:
        """The rows of the datalist, checked."""
        found: dict[str, Listed] = {}
        # endings may be upper-case and accents taken apart on the disk
        paths = self.find(root, lambda path: path.name.lower().endswith(VOLUME_ENDINGS))
        known = {spelled(path.relative_to(root).as_posix()): path for path in paths}
        for part, row in rows_of(task.table, read_datalist(self.config)[1]):
            picture = next((name for name in images_of(row) if name.lower().endswith(PICTURES)), "")
            if picture:
                raise SslMedError(
                    f"{task.table}: names {picture}, a picture, and data=monai reads volumes; take data=images "
                    f"data.labels={Path(task.table).name}"
                )
            images = tuple(self._file(name, task, known) for name in images_of(row))
            if len(images) not in (1, len(task.modalities)):
                raise SslMedError(
                    f"{task.table}: a row names {len(images)} images, but there are {len(task.modalities)} channels"
                )
            name = (PurePosixPath(images_of(row)[0]).parent / stem(images[0])).as_posix()
            if name in found:
                raise SslMedError(f"{task.table}: names {images[0]} twice; keep one row")
            mask = mask_of(row)
            found[name] = Listed(name, images, self._file(mask, task, known) if mask else None)
            self.rows[name] = part, row
        return [found[name] for name in sorted(found)]

    def _file(self, name: str, task: Task, known: Mapping[str, Path]) -> Path:
        root, given = Path(self.config.root), Path(name)
        inside = given.relative_to(root) if given.is_absolute() and given.is_relative_to(root) else given
        if inside.is_absolute() or ".." in inside.parts:
            raise SslMedError(
                f"{task.table}: names {name}, which lies outside of data.root={root}; name files below it"
            )
        path = known.get(spelled(inside.as_posix()), root / inside)
        if not path.exists() and not self.quarantined(path):
            raise AbsentError(f"{task.table}: names {path}, which is absent; complete the data set", paths=[str(path)])
        return path

    def _scan(self, case: Listed) -> MonaiScan:
        scan, (part, row) = super()._scan(case), self.rows[case.name]
        subject, fold = row.get("subject"), row.get("fold", -1)
        return MonaiScan(
            scan.name, str(subject or scan.subject), scan.images, scan.mask, scan.voxels, scan.separate, False, part,
            fold if isinstance(fold, int) else -1, next((key for key in MASKS if row.get(key)), MASKS[0]),
            label_of_row(row),
        )  # fmt: skip

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """The lists of the file; what it does not name for labelled cases is cut from training."""
        split, note = listed_split(
            cases,
            labelled=self.is_labelled,
            place=lambda case: (case.part, case.fold),
            group=self.split_group,
            config=self.config,
        )
        self.notes += [note] if note else []
        return split

    # --- classes and findings ----------------------------------------------------------------------------------------

    def is_labelled(self, case: Any) -> bool:
        """Whether a row has a label map, a class or findings."""
        return bool(case.mask or case.label)

    def split_group(self, case: Any) -> str:
        """Rows with and without labels are split apart, so that both uses agree on who is tested."""
        return "labelled" if self.is_labelled(case) else ""

    def usable(self, case: Any) -> bool:
        """Labelled use takes the rows with labels."""
        return not self.labelled or self.is_labelled(case)

    def signatures(self, cases: Sequence[Any]) -> dict[str, str]:
        """Of classes and findings the rarest of each patient; masks are one stratum."""
        if self.spec.target == "mask":
            return MsdData.signatures(self, cases)
        return super().signatures(cases)

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """For classes and findings one crop of each scan: a random one for training, else its middle."""
        if not self.labelled or self.spec.target == "mask":
            return super().dataset(cases, part=part)
        read = Cache(self.load, gigabytes=self.config.cache_gb)
        spec = self.spec
        train = part == "train"
        return LabelledScans(cases, read, patch=spec.patch_size, seed=self.seed, target=spec.target, train=train)

    def eval_batch(self) -> int:
        """Whole scans with masks come alone, crops with a class in batches."""
        return super().eval_batch() if self.spec.target == "mask" else MedicalData.eval_batch(self)

    # --- preprocessing -----------------------------------------------------------------------------------------------

    def _channels(self, scan: Any) -> Iterator[tuple[str, Volume]]:
        if not self.steps:
            yield from super()._channels(scan)
            return
        yield from self._processed(scan, masks=self.labelled and bool(scan.mask))[0]

    def _labels(self, scan: Any, grid: Header) -> Volume:
        if not self.steps:
            return super()._labels(scan, grid)
        labels = self._processed(scan, masks=True)[1]
        assert labels is not None
        self._last = None  # both are taken
        self.check_labels(np.unique(labels.array), source=scan.mask)
        return labels

    def _processed(self, scan: Any, *, masks: bool) -> tuple[list[tuple[str, Volume]], Volume | None]:
        """Channels and, where asked for, the label map after data.preprocess."""
        key = scan.name, masks
        if self._last is None or self._last[0] != key:
            self._last = key, *self._process(scan, masks=masks)
        return self._last[1], self._last[2]

    def _process(self, scan: Any, *, masks: bool) -> tuple[list[tuple[str, Volume]], Volume | None]:
        from ssl_med.transforms.samples.pipeline import applied, from_ras, plain, wrapped

        raw = list(super()._channels(scan))
        grid = raw[0][1].grid
        image = torch.from_numpy(np.stack([volume.array for _, volume in raw]).astype(np.float32))
        data: dict[str, Any] = {"image": wrapped(image, grid.to_world)}
        name = scan.key
        if masks:
            labels = super().labels_on(scan, grid).array.astype(np.float32)[None]
            data[name] = wrapped(torch.from_numpy(labels), grid.to_world)
        for step in self.steps:
            data = applied(step, data, scan.images[0])
        volumes = []
        found = {key: plain(data[key]) for key in ("image", *([name] if masks else []))}
        for key, x in found.items():
            assert x is not None
            channels, size = (len(raw) if key == "image" else 1), tuple(data["image"].shape[1:])
            if x.ndim != 4 or tuple(x.shape) != (channels, *size):
                shape = "x".join(map(str, x.shape))
                raise SslMedError(
                    f"{scan.images[0]}: data.preprocess made {key} {shape}; it must keep the channels, and image and label "
                    "must stay on one grid"
                )
        to_world = from_ras(data["image"])
        assert found["image"] is not None
        for (path, _), array in zip(raw, found["image"].numpy(), strict=True):
            volumes.append((path, Volume(array, to_world)))
        mask = found.get(name)
        if mask is None:
            return volumes, None
        if not (mask == mask.round()).all():
            raise SslMedError(
                f"{scan.mask}: data.preprocess leaves labels that are no whole numbers; say mode: nearest for {name}"
            )
        return volumes, Volume(mask[0].numpy().astype(np.uint8), to_world)


def _steps(config: Any) -> list[Any]:
    """The transforms of data.preprocess, whose keys need not all be there.

    Raises:
        SslMedError: one of them is random, or cannot be built.
    """
    if not config.preprocess:
        return []
    if isinstance(config.preprocess, str):
        raise SslMedError(f"data.preprocess is '{config.preprocess}'; names are for commands, give the list itself")
    from ssl_med.transforms.samples.pipeline import Pipeline, allow_missing, is_random  # MONAI's take seconds to import

    steps = Pipeline(TransformList(config.preprocess, "data.preprocess", config.allow)).steps
    for step in steps:
        if is_random(step.transform):
            raise SslMedError(f"{step.name}: is random, but a scan is prepared once; put it into data.transforms")
        allow_missing(step, ("image", *MASKS))
    return steps
