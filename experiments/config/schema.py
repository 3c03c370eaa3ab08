"""Settings as the source of their dataclasses declares them: names, types, defaults and meanings, without an import.

Help, lists, the reference page and the refusal of an unknown key need no more than that, and importing what the settings
belong to (torch, Lightning, MONAI) takes seconds. tests/experiments/test_cli.py holds that this reading equals
`dataclasses.fields` of the imported class.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ssl_med import ranges

ROOT = Path(__file__).parents[2]
_EMPTY: dict[str, Any] = {"dict": {}, "list": [], "tuple": ()}  # factories of empty defaults
_ARITHMETIC = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)


@dataclass(frozen=True)
class Computed:
    """A default that is known only when the program runs, as its source text."""

    text: str


@dataclass(frozen=True)
class Setting:
    """One field of a dataclass of settings.

    * type: as a reader understands it, "int" or "epochs|steps". * default: its value, or `Computed`.
    * inside: the fields of a nested dataclass, whose keys follow a dot.
    """

    name: str
    type: str
    default: Any
    help: str
    inside: tuple[Setting, ...] = ()

    @property
    def open(self) -> bool:
        """Whether it takes keys that no dataclass declares."""
        return self.type.startswith("dict")


@cache
def settings(reference: str) -> tuple[Setting, ...]:
    """The fields of `package.module:Class`, or of the class that `package.module:Config` names, in their order."""
    module, name = _class(reference)
    found: dict[str, Setting] = {}
    for shadow in reversed(_shadow(module, name).__mro__):
        if shadow is not object and any("dataclass" in ast.unparse(item) for item in shadow.node.decorator_list):
            for item in _fields(shadow.module, shadow.node):  # a field that only has another default keeps its meaning
                said = item.help or (found[item.name].help if item.name in found else "")
                found[item.name] = replace(item, help=said)
    return tuple(found.values())


def class_variable(reference: str, name: str) -> Any:
    """Literal value of a class variable of the public class of a module, its bases included; None: it has none."""
    found = _variable(*_class(reference), name)
    return _value(*found) if found is not None else None


def docstring(module: str) -> str:
    """The text that a module opens with."""
    return ast.get_docstring(_tree(module)) or ""


def constant(module: str, name: str, default: Any = None) -> Any:
    """Literal value of a name at the top of a module."""
    node = _assigned(module).get(name)
    return _value(module, node) if node is not None else default


def path_of(module: str) -> Path:
    """Source file of a module, or of a package; also one in a folder by which somebody extends a package's `__path__`."""
    *parents, name = module.split(".")
    path = ROOT.joinpath(*parents, name)
    if path.is_dir():
        return path / "__init__.py"
    folders = []
    if parents and ROOT.joinpath(*parents).is_dir():  # our packages are empty: importing one costs nothing
        folders = [Path(folder) for folder in importlib.import_module(".".join(parents)).__path__]
    found = [folder / f"{name}.py" for folder in folders if (folder / f"{name}.py").is_file()]
    return found[0] if found else path.with_suffix(".py")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


@cache
def _assigned(module: str) -> dict[str, ast.expr]:
    """Names that a module gives a value at its top."""
    found: dict[str, ast.expr] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.Assign):
            found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
    return found


@cache
def _imported(module: str) -> dict[str, tuple[str, str]]:
    """Name -> module of this project and name there."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and path_of(node.module).is_file():
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return found


def _find(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Where a class that a module knows by `name` is defined; None: outside of the project."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
    return _find(*_imported(module)[name]) if name in _imported(module) else None


def _class(reference: str) -> tuple[str, str]:
    """Module and class of a reference; `:Config` of a module without such a class is that of its one public class."""
    module, _, name = reference.partition(":")
    if name and _find(module, name) is not None:
        return module, name
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found = _variable(module, node.name, "Config")
            if found is not None:
                at, value = found
                return (at, ast.unparse(value)) if name else (module, node.name)
    raise LookupError(f"{reference}: no such class")


@cache
def _shadow(module: str, name: str) -> Any:
    """An empty class with the bases of the real one, as far as they are ours: Python then orders them."""
    found = _find(module, name)
    if found is None:
        return None
    if found[0] != module or found[1].name != name:
        return _shadow(found[0], found[1].name)
    bases = (_shadow(module, ast.unparse(base)) for base in found[1].bases)
    own = tuple(base for base in bases if base is not None)
    return type(name, own, {"module": module, "node": found[1]})


def _variable(module: str, name: str, variable: str) -> tuple[str, ast.expr] | None:
    for shadow in _shadow(module, name).__mro__[:-1]:
        for node in shadow.node.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            value = getattr(node, "value", None)
            named = any(isinstance(target, ast.Name) and target.id == variable for target in targets)
            if named and isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.expr):
                return shadow.module, value
    return None


def _fields(module: str, node: ast.ClassDef) -> Iterator[Setting]:
    """What one class declares itself."""
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
            continue
        if ast.unparse(item.annotation).startswith("ClassVar"):
            continue
        text = after.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        help_text = " ".join(inspect.cleandoc(str(text.value)).split()) if text is not None else ""
        inside: tuple[Setting, ...] = ()
        default = _value(module, item.value) if item.value is not None else Computed("")
        nested = _nested(module, item.annotation)
        if nested is not None:
            given = default if isinstance(default, dict) else {}
            inside = tuple(replace(one, default=given.get(one.name, one.default)) for one in settings(nested))
            default = None
        yield Setting(item.target.id, _type(module, item.annotation), default, help_text, inside)


def _nested(module: str, annotation: ast.expr) -> str | None:
    """Reference to the dataclass of settings that an annotation names."""
    found = _find(module, annotation.id) if isinstance(annotation, ast.Name) else None
    return f"{found[0]}:{found[1].name}" if found is not None else None


def _type(module: str, annotation: ast.expr) -> str:
    """Annotation -> words: choices with bars between, an alias as its definition."""
    if isinstance(annotation, ast.Name):
        if annotation.id in _assigned(module):
            return _type(module, _assigned(module)[annotation.id])
        if annotation.id in _imported(module):
            other, name = _imported(module)[annotation.id]
            if name in _assigned(other):
                return _type(other, _assigned(other)[name])
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        choices = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return "|".join(str(ast.literal_eval(choice)) for choice in choices)
    return ast.unparse(_Ranges().visit(copy.deepcopy(annotation))).replace(" | None", " or null")


class _Ranges(ast.NodeTransformer):
    """Puts words for types that bring a range, ssl_med/ranges.py: `Share` -> `float in [0, 1]`."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._worded(node) if hasattr(ranges, node.id) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        inner = self.generic_visit(node) if ast.unparse(node.value) != "Annotated" else self._worded(node)
        assert isinstance(inner, ast.expr)
        return inner

    def _worded(self, node: ast.expr) -> ast.expr:
        kind, allowed = ranges.range_of(eval(ast.unparse(node), vars(ranges)))
        return ast.Name(f"{kind.__name__} {allowed.notation()}".strip()) if allowed is not None else node


def _value(module: str, node: ast.expr) -> Any:
    """Value of an expression of literals and of names for them; keyword arguments of a nested dataclass; else `Computed`."""
    if isinstance(node, ast.Name):
        if node.id in _EMPTY:
            return _EMPTY[node.id]
        if node.id in _assigned(module):
            return _value(module, _assigned(module)[node.id])
        if node.id in _imported(module):
            other, name = _imported(module)[node.id]
            if name in _assigned(other):
                return _value(other, _assigned(other)[name])
        return {} if _nested(module, node) is not None else Computed(node.id)
    if isinstance(node, ast.Lambda):
        return _value(module, node.body)
    if isinstance(node, ast.Call):
        given = {item.arg: item.value for item in node.keywords if item.arg}
        if _nested(module, node.func) is not None:
            return {name: _value(module, value) for name, value in given.items()}
        for inner in (given.get("default"), given.get("default_factory")):
            if inner is not None:
                return _value(module, inner)
        return Computed(ast.unparse(node))
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    if isinstance(node, ast.Dict):
        return {
            _value(module, key): _value(module, value) for key, value in zip(node.keys, node.values, strict=True) if key
        }
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(module, item) for item in node.elts)
    if all(isinstance(part, _ARITHMETIC) for part in ast.walk(node)):  # 2**14
        return eval(compile(ast.Expression(node), module, "eval"), {"__builtins__": {}})
    return Computed(ast.unparse(node))
