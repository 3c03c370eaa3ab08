"""Names that somebody else chose, made harmless for each place that a report writes them to. No writer does this by itself.

A name may hold any character: signs of HTML, Markdown and TeX, a formula of a spreadsheet, a line break, or bytes of a file
name that are no text (Python's lone surrogates, which no file can be written with).
"""

from __future__ import annotations

import hashlib
import html as _html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is one, for Excel, LibreOffice and Google Sheets
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# what is markup in the midst of a line: an underscore within a word is none, nor is a bracket that no link follows
_BRACKETS = r"\](?=[(\[:])|\[(?=\^)"
_SIGNS = r"[\\`*|$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|~|<(?=[A-Za-z/!?])|&(?=\w+;|#)"
_MARKDOWN, _ALT = re.compile(f"({_SIGNS}|{_BRACKETS})"), re.compile(rf"({_SIGNS}|[\[\]])")
_LINE_START = re.compile(r"^(\s*\d*)(#(?=\s|#)|>|[-+](?=\s|$)|[.)](?=\s)|=+$|-+$)")
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$", ">": "$>$", "—": "--", "–": "--",
    "·": r"$\cdot$", "×": r"$\times$", "→": r"$\to$", "|": "$|$",
}  # fmt: skip
LONGEST_STEM = 120  # bytes of a file name made of a name, most systems allow 255 for the whole
_FORMATS = (
    *(".nii", ".nii.gz", ".mhd", ".mha", ".nrrd", ".nhdr", ".npy", ".dcm", ".dicom", ".ima"),
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
)  # endings that names of cases may have


def one_line(text: str) -> str:
    r"""A name without line breaks and control characters, and with `\xff` for a byte that is no text."""
    return "".join(letter if letter.isprintable() else _visible(letter) for letter in text)


def html(text: str) -> str:
    """Plain text within an element or an attribute."""
    return _html.escape(one_line(text))


def markdown(text: str) -> str:
    """Plain text as a line or a cell of a table: nothing of it is markup, HTML or a formula."""
    return _LINE_START.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", one_line(text)))


def alt(text: str) -> str:
    """Plain text as the description of a Markdown image."""
    return _ALT.sub(r"\\\1", one_line(text))


def link(path: str) -> str:
    """A relative path as the target of a Markdown link."""
    return "".join(letter if letter.isalnum() or letter in "-_./" else _percent(letter) for letter in path)


def latex(text: str) -> str:
    r"""Plain text as TeX, also as the first cell of a row, where a bracket or a star would belong to the \\ before it."""
    found = "".join(_TEX.get(letter, letter) for letter in one_line(text))
    return f"{{{found[0]}}}{found[1:]}" if found.startswith(("[", "*")) else found


def latex_label(text: str) -> str:
    r"""What can stand in \label and \ref."""
    return re.sub(r"[^A-Za-z0-9:.-]", "-", one_line(text))


def cell(text: str) -> str:
    """Text as a cell of a CSV file: an apostrophe goes before what a spreadsheet would take for a formula.

    Numbers stay as they are. `from_cell` is the inverse.
    """
    text = "".join(_visible(letter) if _lone(letter) else letter for letter in text)
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def from_cell(text: str) -> str:
    """What `cell` made a cell of."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text


def drawn(name: str, *, longest: int = 48) -> str:
    """A name in a figure: its middle is left out where it is long, and matplotlib does not hide it for a leading underscore.

    That a dollar is no formula is seen to where the figure is saved (`style.save`, `style.to_svg`).
    """
    name = one_line(name)
    name = name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-(longest - longest // 2) :]}"
    return f" {name}" if name.startswith("_") else name


def file_stem(name: str) -> str:
    """A name as a file name: other than letters, digits, '-', '_' and '.' becomes '_'.

    A name of more than `LONGEST_STEM` bytes is cut, and ends in a hash of the whole, so that two of them stay apart.
    """
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in one_line(name))
    if len(stem.encode()) <= LONGEST_STEM:
        return stem
    return f"{stem.encode()[: LONGEST_STEM - 9].decode('utf-8', 'ignore')}-{short_digest(name)}"


def picture_stem(case: str) -> str:
    """The file name of a case's picture without .png: that of the case without the ending of its format."""
    ending = max((e for e in _FORMATS if case.lower().endswith(e)), key=len, default="")
    return file_stem(case[: len(case) - len(ending)] or case)


def picture_stems(cases: Iterable[str]) -> dict[str, str]:
    """`picture_stem` of each case; those that would share one (a.png and a.jpg) end in a hash of the whole name."""
    stems = {case: picture_stem(case) for case in cases}
    count = Counter(stem.lower() for stem in stems.values())  # some disks do not tell letters' case apart
    return {case: stem if count[stem.lower()] == 1 else f"{stem}-{short_digest(case)}" for case, stem in stems.items()}


def short_digest(name: str) -> str:
    """Eight hex digits that keep two cut names apart."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _lone(letter: str) -> bool:
    return "\ud800" <= letter <= "\udfff"


def _visible(letter: str) -> str:
    """A letter that cannot be seen: line breaks and tabs are spaces in a line, others are spelled out."""
    if "\udc80" <= letter <= "\udcff":  # Python's sign of a byte of a file name that is no text
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if letter in "\t\n\r\v\f" or unicodedata.category(letter) in ("Zs", "Zl", "Zp"):
        return " "
    return letter.encode("unicode_escape").decode()


def _percent(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
