"""Refuses files that must not enter the history: over 250 kB, weights and scans, unparsable yaml or toml, private keys."""

import sys
import tomllib
from pathlib import Path

import yaml

LARGEST = 250_000  # bytes; figures of the documentation fit
REFUSED = (".ckpt", ".safetensors", ".pt", ".pth", ".nii", ".nii.gz", ".mhd", ".raw", ".zraw", ".dcm", ".npz", ".npy")
KEY = b"-----BEGIN " + b"%s" + b"PRIVATE KEY-----"


def complaint(path: Path) -> str:
    """Why a file is refused; '' when it is not."""
    if not path.is_file():
        return ""
    if path.name.lower().endswith(REFUSED):
        return "is data or weights; keep it out of the repository"
    size = path.stat().st_size
    if size > LARGEST:
        return f"has {size} bytes; the limit is {LARGEST}"
    content = path.read_bytes()
    if any(KEY % kind in content for kind in (b"", b"RSA ", b"EC ", b"OPENSSH ")):
        return "holds a private key"
    try:
        if path.suffix in (".yaml", ".yml"):
            yaml.safe_load(content)
        if path.suffix == ".toml":
            tomllib.loads(content.decode())
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        return f"cannot be parsed ({' '.join(str(error).split())})"
    return ""


def main(names: list[str]) -> int:
    """Prints one line per refused file."""
    found = [(name, complaint(Path(name))) for name in names]
    for name, text in found:
        if text:
            print(f"{name}: {text}", file=sys.stderr)
    return int(any(text for _, text in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
