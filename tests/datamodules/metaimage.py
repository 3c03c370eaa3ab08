"""A MetaImage writer for tests, from the format's description: one voxel after the other, the first axis fastest."""

import struct
import zlib

import numpy as np

CODES = {
    "MET_CHAR": "b", "MET_UCHAR": "B", "MET_SHORT": "h", "MET_USHORT": "H", "MET_INT": "i", "MET_UINT": "I",
    "MET_LONG": "i", "MET_ULONG": "I", "MET_LONG_LONG": "q", "MET_ULONG_LONG": "Q", "MET_FLOAT": "f", "MET_DOUBLE": "d",
}  # fmt: skip


def write(
    path,
    array,
    *,
    element="MET_SHORT",
    big=False,
    packed=False,
    before=b"",
    skip=0,
    local=False,
    offset=(0.0, 0.0, 0.0),
    spacing=(1.0, 1.0, 1.0),
    rows=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    **fields,
):
    """Writes `path` (.mhd or .mha) and its data file; `rows[i]` is the direction of voxel axis i; `fields` override."""
    values = [array[i, j, k].item() for k, j, i in np.ndindex(array.shape[::-1])]
    content = struct.pack((">" if big else "<") + CODES[element] * len(values), *values)
    content = before + (zlib.compress(content) if packed else content)
    data = path.with_suffix(".zraw" if packed else ".raw")
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": big,
        "CompressedData": packed,
        "TransformMatrix": " ".join(f"{v:.17g}" for v in np.ravel(rows)),
        "Offset": " ".join(f"{v:.17g}" for v in offset),
        "HeaderSize": skip,
        "ElementSpacing": " ".join(f"{v:.17g}" for v in spacing),
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": element,
        **fields,
        "ElementDataFile": "LOCAL" if local else data.name,
    }
    text = "".join(f"{key} = {value}\n" for key, value in header.items() if value is not None).encode()
    path.write_bytes(text + content if local else text)
    if not local:
        data.write_bytes(content)
    return path
