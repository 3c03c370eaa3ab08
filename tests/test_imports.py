"""Who may import whom: read from the source, so that a border holds for code that no test runs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("ssl_med", "datamodules", "experiments")

PARTS = {
    "ssl_med.spec",
    "ssl_med.ranges",
    "ssl_med.setting",
    "ssl_med.rng",
    "ssl_med.distributed",
    "ssl_med.networks",
}
PARTS |= {"ssl_med.losses", "ssl_med.transforms", "ssl_med.optim", "ssl_med.checkpoint", "ssl_med.ledger"}
PARTS |= {"ssl_med.contract", "ssl_med.reading", "ssl_med.files", "ssl_med.finite", "ssl_med.slabs"}
# for SslMedError, the nearest name, directions of metrics, and statistics, which need no torch
REPORTS = {"ssl_med.spec", "ssl_med.catalogue", "ssl_med.reading", "ssl_med.files"}
REPORTS |= {f"ssl_med.evaluation.{name}" for name in ("metrics", "statistics", "bootstrap", "analysis")}
# what each part of the project may import of the project besides itself; the longest matching name rules
MAY_IMPORT = {
    "ssl_med": set(),
    "ssl_med.spec": {"ssl_med.reading"},
    "ssl_med.rng": set(),
    "ssl_med.reading": set(),
    "ssl_med.setting": set(),
    "ssl_med.files": {"ssl_med.spec"},
    "ssl_med.ranges": {"ssl_med.spec"},
    "ssl_med.finite": {"ssl_med.spec"},
    "ssl_med.contract": {"ssl_med.spec", "ssl_med.reading"},
    "ssl_med.distributed": set(),
    "ssl_med.processor": set(),
    "ssl_med.precision": {"ssl_med.spec", "ssl_med.processor"},
    "ssl_med.catalogue": {"ssl_med.spec"},
    "ssl_med.yaml_text": {"ssl_med.spec"},
    "ssl_med.values": {"ssl_med.ranges", "ssl_med.yaml_text"},
    "ssl_med.config": {
        "ssl_med.reading",
        "ssl_med.spec",
        "ssl_med.catalogue",
        "ssl_med.setting",
        "ssl_med.ranges",
        "ssl_med.values",
        "ssl_med.yaml_text",
    },
    "ssl_med.networks": {
        "ssl_med.finite",
        "ssl_med.spec",
        "ssl_med.ranges",
        "ssl_med.setting",
        "ssl_med.catalogue",
        "ssl_med.reading",
    },
    "ssl_med.losses": {"ssl_med.spec", "ssl_med.distributed", "ssl_med.slabs"},
    "ssl_med.slabs": set(),
    "ssl_med.transforms": {"ssl_med.spec", "ssl_med.ranges"},
    "ssl_med.transforms.samples": {"ssl_med.spec", "ssl_med.catalogue"},
    "ssl_med.hub": {"ssl_med.spec", "ssl_med.networks"},
    "ssl_med.optim": {"ssl_med.spec", "ssl_med.ranges", "ssl_med.setting"},
    "ssl_med.ledger": {"ssl_med.spec", "ssl_med.reading"},
    "ssl_med.checkpoint": {
        "ssl_med.contract",
        "ssl_med.finite",
        "ssl_med.files",
        "ssl_med.spec",
        "ssl_med.networks",
        "ssl_med.ledger",
        "ssl_med.reading",
    },
    "ssl_med.methods": PARTS | {"ssl_med.evaluation.metrics"},
    "ssl_med.evaluation": PARTS,
    "ssl_med.evaluation.metrics": {"ssl_med.spec", "ssl_med.catalogue"},
    "ssl_med.weights": {
        "ssl_med.finite",
        "ssl_med.files",
        "ssl_med.spec",
        "ssl_med.catalogue",
        "ssl_med.contract",
        "ssl_med.networks",
        "ssl_med.losses",
        "ssl_med.checkpoint",
        "ssl_med.reading",
    },
    "ssl_med.features": PARTS
    | {"ssl_med.catalogue", "ssl_med.evaluation", "ssl_med.reports.style", "ssl_med.reports.escape"},
    "ssl_med.reports": REPORTS,
    # rooms of the report: run_folder, style <- numbers <- figures <- sections; render knows blocks, and for the CSV numbers
    "ssl_med.reports.escape": set(),
    "ssl_med.reports.summary": set(),
    "ssl_med.reports.run_tables": {"ssl_med.spec", "ssl_med.reading", "ssl_med.reports.escape"},
    "ssl_med.reports.run_folder": REPORTS | {f"ssl_med.reports.{name}" for name in ("run_tables", "summary")},
    "ssl_med.reports.style": {"ssl_med.files", "ssl_med.reports.escape", "ssl_med.reports.run_folder"},
    "ssl_med.reports.numbers": REPORTS | {f"ssl_med.reports.{name}" for name in ("run_folder", "run_tables", "style")},
    "ssl_med.reports.figures": REPORTS
    | {f"ssl_med.reports.{name}" for name in ("escape", "run_folder", "run_tables", "style", "numbers")},
    "ssl_med.reports.render": {f"ssl_med.reports.{name}" for name in ("escape", "run_folder", "style", "numbers")},
    "ssl_med.reports.sections": REPORTS
    | {f"ssl_med.reports.{name}" for name in ("escape", "run_folder", "numbers", "figures", "render.blocks")},
    "datamodules": {
        "ssl_med.spec",
        "ssl_med.reading",
        "ssl_med.ranges",
        "ssl_med.setting",
        "ssl_med.config",
        "ssl_med.catalogue",
        "ssl_med.ledger",
        "ssl_med.files",
        "ssl_med.transforms.samples",
    },
    "experiments": {"ssl_med", "datamodules"},
}
# libraries that only some modules may name
ONLY_IN = {
    "omegaconf": {"ssl_med.yaml_text"},
    "wandb": {"experiments.run.tracking", "experiments.commands.dashboard"},
    "wandb_workspaces": {"experiments.commands.dashboard"},
    "nibabel": {"datamodules", "experiments.bench.baselines"},  # baselines: what others do, in their own libraries
    "PIL": {"datamodules"},
    "pydicom": {"datamodules"},
    "matplotlib": {"ssl_med.reports", "ssl_med.features"},
}
# slow to import: inside the function that needs them, except where every user of the module needs them
LAZY = {
    # for pipelines of MONAI: nothing of ours imports these at its top
    "monai": {
        *(f"ssl_med.transforms.{name}" for name in ("monai", "_monai", "_monai_geometry", "samples")),
        "experiments.bench.baselines",
    },
    "sklearn": set(),
    "pydicom": set(),
    "matplotlib": {"ssl_med.reports", "ssl_med.features.core"},
    "scipy": {"datamodules.phantoms"},
}
REPORTS_NEED = {"numpy", "matplotlib", "scipy"}


def modules():
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path.read_text()


def imports(source):
    """(imported module, whether it is imported when the module is) of every import statement."""
    found = []

    def visit(node, top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, "imports are absolute here"
                # `from package import module` names a module too
                names = [f"{child.module}.{alias.name}" for alias in child.names]
                found.extend((name if is_module(name) else child.module, top) for name in names)
            visit(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(source), True)
    return found


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return name.split(".")[0] in OURS and (path.with_suffix(".py").is_file() or path.is_dir())


def within(name, parts):
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def complaints(module, source):
    """Every broken border of one module, as text."""
    area = max((part for part in MAY_IMPORT if within(module, [part])), key=len)
    allowed = MAY_IMPORT[area] | ({area} if area != "ssl_med" else set())
    lines = []
    for name, top in imports(source):
        library = name.split(".")[0]
        if library in OURS:
            if not within(name, allowed):
                lines.append(f"{module} imports {name}")
            continue
        if library in ONLY_IN and not within(module, ONLY_IN[library]):
            lines.append(f"{module} imports {library}")
        if library in LAZY and top and not within(module, LAZY[library]):
            lines.append(f"{module} imports {library} at its top")
        if within(area, ["ssl_med.reports"]) and library not in REPORTS_NEED | set(sys.stdlib_module_names):
            lines.append(f"{module} imports {library}")
    return lines


def test_borders_hold():
    found = [line for module, source in modules() for line in complaints(module, source)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("ssl_med.methods.x", "import datamodules.core.base", "imports datamodules.core.base"),
        ("ssl_med.spec", "from ssl_med.catalogue import nearest", "imports ssl_med.catalogue"),
        ("ssl_med.losses.x", "def f():\n    from ssl_med.networks import ema", "imports ssl_med.networks.ema"),
        ("ssl_med.evaluation.x", "from ssl_med.methods.core.base import Method", "imports ssl_med.methods.core.base"),
        ("ssl_med.reports.x", "import torch", "imports torch"),
        ("ssl_med.reports.x", "from ssl_med import optim", "imports ssl_med.optim"),
        ("ssl_med.reports.sections.x", "import torch", "imports torch"),
        (
            "ssl_med.reports.numbers.x",
            "from ssl_med.reports.figures import curves",
            "imports ssl_med.reports.figures.curves",
        ),
        (
            "ssl_med.reports.sections.x",
            "from ssl_med.reports.render import html",
            "imports ssl_med.reports.render.html",
        ),
        ("datamodules.luna", "from ssl_med.transforms.corruptions import f", "imports ssl_med.transforms.corruptions"),
        ("experiments.commands.finetune", "from omegaconf import OmegaConf", "imports omegaconf"),
        ("experiments.commands.finetune", "import wandb", "imports wandb"),
        ("ssl_med.networks.x", "import nibabel as nib", "imports nibabel"),
        ("ssl_med.evaluation.x", "from sklearn.metrics import roc_auc_score", "imports sklearn at its top"),
    ],
)
def test_a_broken_border_is_seen(module, source, complaint):
    assert complaints(module, source) == [f"{module} {complaint}"]


def test_what_is_allowed_is_not_complained_of():
    assert complaints("ssl_med.evaluation.x", "def f():\n    from sklearn.metrics import roc_auc_score") == []
    assert complaints("experiments.x", "from ssl_med.methods import moco\nimport datamodules.luna") == []
    assert complaints("ssl_med.methods.x", "from ssl_med.networks.ema import EMA") == []


def test_nothing_of_ours_needs_the_transforms_for_monai():
    users = {m for m, source in modules() for name, _ in imports(source) if name == "ssl_med.transforms.monai"}
    assert users == set()


def test_packages_are_empty():
    for path in (path for package in OURS for path in (ROOT / package).rglob("__init__.py")):
        body = ast.parse(path.read_text()).body
        if path.parent == ROOT / "ssl_med":  # the Python interface, which loads itself when it is used
            continue
        assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), path


def test_only_the_python_interface_loads_upwards_by_name():
    """An import by name would escape the reading of import statements above."""
    found = {
        module
        for module, source in modules()
        if not within(module, ["experiments"])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and str(node.value).startswith("experiments.")
    }
    assert found == {"ssl_med"}


def test_importing_the_packages_imports_nothing_heavy():
    code = (
        f"import {', '.join(OURS)}, sys; "
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'scipy', 'sklearn', 'monai', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
