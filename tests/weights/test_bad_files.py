"""Files that are no weights, or claim what they do not hold: one line with the file's name, exit code 2, no code, no memory."""

import io
import json
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from experiments.cli import main
from ssl_med.spec import SslMedError
from ssl_med.weights.core.files import Document, read_document
from ssl_med.weights.core.find import choose

PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 1234\n"
TERA = 2**40


def content(data):
    return lambda path: path.write_bytes(data)


def saved(value, **options):
    return lambda path: torch.save(value, path, **options)


def halved(write):
    def cut(path):
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut


def arrays(**held):
    return lambda path: np.savez(path, **held)


def header(shape):
    """The head of an array file that claims a shape, and a few values."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return head.getvalue() + bytes(64)


def archive(name, data, compression=zipfile.ZIP_STORED):
    def write(path):
        with zipfile.ZipFile(path, "w", compression) as file:
            file.writestr(name, data)

    return write


def flipped(path):
    np.savez(path, a=np.arange(1000.0))
    spoiled = bytearray(path.read_bytes())
    spoiled[len(spoiled) // 2] ^= 255
    path.write_bytes(spoiled)


def safetensors(shape, size):
    head = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return content(len(head).to_bytes(8, "little") + head)


def parts(index, **files):
    """A folder of Hugging Face in parts."""

    def write(path):
        path.mkdir()
        (path / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
        for name, held in files.items():
            save_file({key: torch.zeros(2) for key in held}, path / f"{name}.safetensors")

    return write


def folder(**files):
    def write(path):
        path.mkdir()
        for name, data in files.items():
            (path / name.replace("__", ".")).write_bytes(data)

    return write


def nested(twice):
    """Containers that hold themselves, once or twice each."""
    tree = {"state": {"a": torch.zeros(2)} if not twice else {}}
    tree["self"] = tree
    if twice:
        tree["again"] = tree
    return tree


TENSOR = torch.arange(10.0)
INDEX = "model.safetensors.index.json"
WRONG = {
    "page.pth": (content(PAGE), "page.pth: is a web page, not the file itself; download it again"),
    "page.safetensors": (content(PAGE), "is a web page, not the file itself"),
    "pointer.ckpt": (content(POINTER), "is a pointer of Git LFS, not the file itself; run `git lfs pull`"),
    "pointer.npz": (content(POINTER), "is a pointer of Git LFS"),
    "pointers": (folder(pytorch_model__bin=POINTER), "pytorch_model.bin: is a pointer of Git LFS"),
    "empty.pt": (content(b""), "is empty; download it again"),
    "answer.pth": (content(b'{"error": "denied"}'), "is no file that torch wrote; copy or download it again"),
    "half.pth": (halved(saved({"a": torch.zeros(999)})), "is cut off: an archive without its end"),
    "old.pth": (
        halved(saved({"a": torch.zeros(999)}, _use_new_zipfile_serialization=False)),
        "is not a readable file of weights",
    ),
    "bomb.pth": (archive("archive/data.pkl", bytes(2**27), zipfile.ZIP_DEFLATED), "would unpack to 128 MB"),
    "list.pth": (saved([TENSOR]), "holds a list, no tensors by name"),
    "sparse.pth": (saved({"a": torch.eye(3).to_sparse()}), "tensor a is sparse or quantised"),
    "expanded.pth": (
        saved({"a": torch.zeros(1).expand(TERA)}),
        f"tensor a claims {TERA} values, more than its storage",
    ),
    "meta.pth": (saved({"a": torch.empty(TERA, device="meta")}), "tensor a has a shape and no values"),
    "self.pth": (saved(nested(twice=False)), "self.pth: its values are nested too deeply, hold each other"),
    "selves.pth": (saved(nested(twice=True)), "selves.pth: holds no tensors by name"),
    "half.npz": (halved(arrays(a=np.arange(999.0))), "is cut off"),
    "flipped.npz": (flipped, "is not a readable file of arrays"),
    "bomb.npz": (archive("a.npy", bytes(2**27), zipfile.ZIP_DEFLATED), "would unpack to 128 MB"),
    "claim.npz": (archive("a.npy", header((TERA,))), f'array "a.npy" claims {TERA} values, more than it holds'),
    "other.npz": (archive("a.txt", b"text"), 'holds "a.txt", which is no array'),
    "objects.npz": (arrays(a=np.array([{}], object)), "holds Python objects, which would run code"),
    "wide.npz": (arrays(a=np.zeros(2, np.longdouble)), 'array "a" is of float128, which torch does not have'),
    "fields.npz": (arrays(a=np.zeros(2, [("x", "f4")])), "which torch does not have"),
    "claim.safetensors": (safetensors([10**9], 4 * 10**9), "is not a readable file of weights"),
    "no_map": (parts({}), f"{INDEX}: has no 'weight_map'"),
    "no_json": (parts("<html>"), f"{INDEX}: is not valid JSON"),
    "numbers": (parts({"weight_map": {"a": 1}}), f"{INDEX}: has no 'weight_map'"),
    "outside": (parts({"weight_map": {"a": "../x.safetensors"}}), 'names "../x.safetensors", which is no'),
    "lacking": (
        parts({"weight_map": {"a": "x.safetensors"}}),
        "names x.safetensors, which is not there; bring all parts",
    ),
    "short": (
        parts({"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}, x=["a"]),
        'names 1 tensors that its parts do not hold, such as "b"',
    ),
    "twice": (
        parts({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}, x=["a"], y=["a", "b"]),
        'names parts of which two hold "a"',
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_it_is_said_in_one_line(name, tmp_path, capsys):
    write, said = WRONG[name]
    write(tmp_path / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["weights", "inspect", str(tmp_path / name)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert name in lines[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # KB


def test_arrays_of_another_order_of_bytes_keep_their_values(tmp_path):
    np.savez(
        tmp_path / "x.npz", big=np.arange(3, dtype=">f4"), whole=np.arange(3, dtype=">i8"), text=np.array("of 2020")
    )
    state = read_document(tmp_path / "x.npz").open([""]).state
    assert {key: (value.dtype, value.tolist()) for key, value in state.items()} == {
        "big": (torch.float32, [0, 1, 2]),
        "whole": (torch.int64, [0, 1, 2]),
    }


def test_a_container_is_opened_once_for_all_families(monkeypatch):
    opened = []
    container = Document._container
    monkeypatch.setattr(Document, "_container", lambda self, name: opened.append(name) or container(self, name))
    document = Document(Path(__file__), {"state_dict": {"module.strange": torch.zeros(3)}})
    with pytest.raises(SslMedError, match=r"no family knows its layout \(1 tensors in 'state_dict': module.strange\)"):
        choose(document)
    assert sorted(opened) == sorted(set(opened))
