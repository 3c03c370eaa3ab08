"""A frontal chest radiograph, drawn as a projection: attenuation adds up along the rays, then the film's curve makes it grey.

Lengths are mm on the radiograph, x to the right of the image (the patient's left), y down, 0 in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from datamodules.phantoms._anatomy import Array, Grid, fill, grain, path, tree

VIEW = 356.0  # mm from the upper to the lower edge, a 14-inch film


@dataclass
class Build:
    """What a patient keeps from radiograph to radiograph."""

    female: bool
    wide: float = 1.2
    tall: float = 1.2
    heart: float = 1.0
    fat: float = 1.0
    ribs: float = 23.0
    phase: float = 0.0
    side: dict[str, int] = field(default_factory=dict)  # the sick side, -1 the patient's right


def draw_build(rng: np.random.Generator, findings: Sequence[str]) -> Build:
    """A random patient; where one of `findings` is one-sided, the side is settled here."""
    return Build(
        female=bool(rng.random() < 0.45),
        wide=rng.uniform(1.1, 1.25),
        tall=rng.uniform(1.12, 1.27),
        heart=rng.uniform(0.86, 1.03),
        fat=rng.uniform(0.8, 1.25),
        ribs=rng.uniform(21, 25),
        phase=rng.uniform(0, 1),
        side={name: int(rng.choice([-1, 1])) for name in findings},
    )


class Radiograph:
    """One exposure under way: geometry first, then attenuation in `self.density`."""

    def __init__(
        self, grid: Grid, rng: np.random.Generator, build: Build, findings: list[str], *, portable: bool
    ) -> None:
        self.grid, self.rng, self.build, self.findings = grid, rng, build, set(findings)
        self.x, self.y = (
            axis / np.float32(scale * rng.uniform(0.97, 1.03)) - np.float32(rng.uniform(-5, 5))
            for axis, scale in zip(np.broadcast_arrays(*grid.axes), (build.wide, build.tall), strict=True)
        )
        # a grid in the patient's own measure, so that every shape follows size and position
        self.own = Grid(grid.size, grid.spacing)
        self.own.axes = [self.x, self.y]
        heart = build.heart * (
            1.1 if portable else 1.0
        )  # the heart is far from the radiograph when the tube stands in front
        if "Cardiomegaly" in self.findings:
            heart *= rng.uniform(1.28, 1.5)
        self.heart_size = heart * (0.86 if "Emphysema" in self.findings else 1.0)
        self.lung, self.outline = self._lungs(portable)
        self.density = np.zeros(grid.size, np.float32)
        self.veil: Array = np.zeros(grid.size, np.float32)  # share of the heart's shadow
        self.air = self.veil  # aerated depth along the ray, as a share

    def _lungs(self, portable: bool) -> tuple[Array, list[Array]]:
        """Depth of the aerated outline, both sides in one; and the sides alone before the diaphragm cut them."""
        x, y, sick = self.x, self.y, self.findings
        both, outlines = [], []
        for sign in (-1, 1):
            cx = sign * 70
            rho = (np.abs((x - cx) / 60) ** 2.2 + np.abs((y + 5) / 132) ** 2.6) ** 0.42
            outline = (1 - rho) * 70 + 1.5 * self.grid.noise(self.rng, 60)
            base, lift = 96 - (10 if portable else 0) + self.rng.uniform(-8, 8), self.rng.uniform(26, 40)
            if "Emphysema" in sick:
                base, lift = base + 16, 10
            if "Atelectasis" in sick and self.build.side["Atelectasis"] == sign:
                base -= 20
            if "Fibrosis" in sick:
                base -= 12
            base -= 10 if sign < 0 else 0  # the liver pushes the right dome up
            dome = base - lift * (1 - ((x - cx * 0.9) / 62) ** 2)
            both.append(np.minimum(outline, dome - y))
            outlines.append(outline)
        return np.maximum(*both), outlines

    def body(self) -> None:
        """Soft tissue: trunk, neck, shoulders, breasts, abdomen, heart and great vessels, minus the air."""
        x, y, grid, rng = self.x, self.y, self.own, self.rng
        width = 148 + 5 * (self.build.fat - 1) + 45 * np.clip((-35 - y) / 45, 0, 1) ** 1.5  # the shoulders are wider
        trunk = np.sqrt(np.clip(1 - (np.abs(x) / width) ** 5, 0, 1))
        shoulder = y + 158 - 0.42 * np.clip(np.abs(x) - 48, 0, None)
        trunk = trunk * np.clip(shoulder / 26, 0, 1) ** 0.7
        neck = 0.75 * np.sqrt(np.clip(1 - (x / 52) ** 2, 0, 1)) * np.clip((-100 - y) / 40, 0, 1)
        self.density += 0.40 * self.build.fat**0.4 * np.maximum(trunk, neck)
        self.air = air = 1 - np.exp(-np.clip(self.lung, 0, None) / 16)
        dark = 0.30 if "Emphysema" not in self.findings else 0.345
        self.density -= dark * air * (1 + 0.03 * grid.noise(rng, 40))
        below = np.clip((np.minimum(y - 45, -self.lung) + 4) / 40, 0, 1) * trunk
        self.density += 0.10 * below
        bubble = grid.ellipsoid((rng.uniform(45, 65), rng.uniform(112, 126)), (rng.uniform(14, 26), rng.uniform(9, 15)))
        self.density -= 0.13 * np.clip(bubble / 6, 0, 1) * (self.lung < 0)
        if self.build.female:
            for sign in (-1, 1):
                breast = grid.ellipsoid((sign * 82, 62), (56, 46))
                self.density += 0.05 * np.sqrt(np.clip(breast / 25, 0, 1))
        size = self.heart_size
        left = grid.ellipsoid((24 * size, 46), (50 * size, 46 * size**0.5), turn=0.5)
        right = grid.ellipsoid((-14 * size, 38), (31 * size, 46 * size**0.5))
        heart = np.clip(np.maximum(left, right) / 22, 0, 1) ** 0.6
        self.veil = heart
        great = np.clip((31 - np.abs(x - 4)) / 10, 0, 1) * np.clip((y + 175) / 60, 0, 1) * (y < 60)
        knob = np.clip(grid.ellipsoid((24, -62), (18, 19)) / 8, 0, 1)
        self.density += np.maximum(0.24 * heart, np.maximum(0.15 * great, 0.17 * knob))
        windpipe = path([(0, -190), (2, -64), (-3, -46)], [8.5, 8, 7])
        main = [path([(0, -50), (s * 24, -24 - 6 * (s < 0))], [6, 4.5]) for s in (-1, 1)]
        self.density -= 0.07 * self.strands(np.vstack([windpipe, *main]), soft=5)

    def bones(self) -> None:
        """Spine, ribs behind and in front, clavicles, shoulder blades."""
        x, y, build = self.x, self.y, self.build
        level = y / build.ribs + build.phase
        notch = np.abs(level - np.rint(level)) * build.ribs
        self.density += 0.09 * np.clip((17 - np.abs(x)) / 5, 0, 1) * (0.75 + 0.25 * np.clip(notch / 3, 0, 1))
        cage = np.clip((138 - np.abs(x)) / 6, 0, 1) * np.clip((112 - y) / 25, 0, 1) * np.clip((y + 150) / 12, 0, 1)
        cage = cage * np.clip((np.maximum(*self.outline) + 10) / 6, 0, 1)
        side = np.abs(x)
        for turns, height, power in (
            ((y - 0.30 * side + 0.0030 * (side - 70) ** 2 - 15) / build.ribs, 5.0, 0.058),
            ((y + 0.62 * side - 0.0012 * side**2) / (1.12 * build.ribs), 5.5, 0.030 * (side > 45)),
        ):
            off = height - np.abs(turns + build.phase - np.rint(turns + build.phase)) * build.ribs
            rib = np.clip(off / 2, 0, 1) * (1 - 0.35 * np.clip((off - 2) / 2, 0, 1))  # the cortex is denser
            self.density += power * rib * cage
        for s in (-1, 1):
            collar = path([(s * 14, -100), (s * 50, -112), (s * 95, -118), (s * 140, -108)], [7, 5, 4.5, 6])
            self.density += 0.07 * self.strands(collar, soft=3)
            blade = path([(s * 112, -112), (s * 122, -60), (s * 116, -20)], [2.5, 2.5, 2])
            self.density += 0.03 * self.strands(blade, soft=3)

    def strands(self, segments: Array, *, soft: float) -> Array:
        """Thickness (0..1) of rods with an edge of `soft` mm."""
        scale = np.array([self.build.wide, self.build.tall] * 2 + [1, 1])
        sharp = self.grid.tubes(segments * scale)
        blurred: Array = ndimage.gaussian_filter(sharp, soft / 2 / self.grid.voxel)
        return blurred

    def marks(self) -> tuple[Array, Array]:
        """Lung markings: attenuation of the vessel trees, and the aerated share they are seen through."""
        rows = []
        for s in (-1, 1):
            for _ in range(8):
                root = np.array([s * 34, -8 + self.rng.uniform(-14, 18)])
                toward = np.array([s * self.rng.uniform(0.3, 1), self.rng.normal(0.25, 0.8)])
                rows.append(tree(self.rng, root, toward, radius=self.rng.uniform(2.4, 4.0), smallest=1.3, reach=14))
        strength = 0.03 if "Emphysema" in self.findings else 0.07
        vessels = strength * self.strands(np.vstack(rows), soft=0.6)
        hila = sum(np.clip(self.own.ellipsoid((s * 37, -2), (13, 22)) / 10, 0, 1) for s in (-1, 1))
        fine = 0.008 * self.grid.noise(self.rng, 5)
        return vessels + 0.05 * hila + fine, np.clip(self.lung / 8, 0, 1) * (1 - 0.6 * self.veil)

    def expose(self, *, portable: bool) -> Array:
        """The radiograph's curve, noise, collimator and side marker: grey levels (columns, rows), uint8."""
        rng, grid = self.rng, self.grid
        image = ndimage.gaussian_filter(self.density, 0.9 / grid.voxel if grid.voxel < 0.9 else 0.35)
        image += 0.02 * grid.noise(rng, 150)
        low, high = np.percentile(image, [rng.uniform(0.5, 3), rng.uniform(98.5, 99.8)])
        image = np.clip((image - low) / (high - low), 0, 1) ** rng.uniform(0.9, 1.25)
        grey = rng.uniform(5, 25) + rng.uniform(205, 235) * image + rng.uniform(2, 4) * grain(rng, grid.size, 0.4)
        x, y = grid.axes
        corner = np.array([grid.half[0] - rng.uniform(22, 34), -grid.half[1] + rng.uniform(18, 30)])
        strokes = [[(-5, -8), (-5, 8), (5, 8)]]  # an L at the patient's left
        if portable:
            strokes.append([(-9, 16), (9, 16)])
        letter = np.vstack([path([corner + p for p in stroke], [1.4] * len(stroke)) for stroke in strokes])
        fill(grey, 0.9 * grid.tubes(letter), 245.0)
        if rng.random() < 0.3:
            edge = np.minimum(grid.half[0] - np.abs(x), grid.half[1] - np.abs(y)) - rng.uniform(3, 9)
            grey *= np.clip(edge + 1, 0, 1)
        if portable and rng.random() < 0.5:  # a monitor's cable crosses the chest
            top = np.array([rng.uniform(-110, 70), -170])
            points = top + np.cumsum(rng.normal([6, 38], [16, 8], (7, 2)), axis=0)
            grey += 45 * grid.tubes(path(list(points), [1.2] * 7))
        radiograph: Array = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
        return radiograph
