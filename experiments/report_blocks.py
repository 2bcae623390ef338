"""What a report is made of, read from and written as Markdown.

Inside texts, cells and items: ``code`` between backticks, **bold** and [links](address).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of items."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Lines to be shown as they are."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head of as many cells."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """An image file, and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Frames:
    """Images of one case after each step, one below another in a file.

    Attributes:
        name: of the method.
        path: of the file.
        shape: of one image, ``(y, x)``.
        psnr: of each image [dB]; for a reference, of which there is one image, empty.
        ends: numbers of steps after which a module ends.
    """

    name: str
    path: Path
    shape: tuple[int, int]
    psnr: Sequence[float] = ()
    ends: Sequence[int] = ()


@dataclass(frozen=True)
class Slider:
    """Frames side by side, gone through together."""

    frames: Sequence[Frames]


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when asked for."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Text | Items | Code | Table | Picture | Slider | Fold


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Markdown for a file in ``folder``, with links to the pictures; a slider becomes a table."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Items(items):
            return "\n".join(f"- {item}" for item in items)
        case Code(text):
            return f"```\n{text}\n```"
        case Table(head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return "\n".join("| " + " | ".join(line) + " |" for line in lines)
        case Picture(path, caption):
            return f"![{caption}]({path.relative_to(folder).as_posix()})\n\n{caption}"
        case Slider(frames):
            return _markdown(by_step([frame for frame in frames if frame.psnr]), folder)
        case Fold(summary, inner):
            text = to_markdown(inner, folder)
            return f"<details>\n<summary>{summary}</summary>\n\n{text}\n</details>"


def by_step(frames: Sequence[Frames]) -> Table:
    """PSNR [dB] after each step, a column a method."""
    head = ["step", *(f"{frame.name} [dB]" for frame in frames)]
    columns = [[f"{value:.2f}" for value in frame.psnr] for frame in frames]
    rows = enumerate(zip_longest(*columns, fillvalue=""))
    return Table(head, [[str(step), *cells] for step, cells in rows])


def read_markdown(path: Path) -> list[Block]:
    """The blocks of a Markdown file as the experiments write them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    blocks: list[Block] = []
    for kind, group in groupby(zip(_kinds(lines), lines, strict=True), lambda pair: pair[0]):
        blocks += _read(kind, [line for _, line in group], path.parent)
    return blocks


def _kinds(lines: Sequence[str]) -> list[str]:
    """What each line belongs to."""
    marks = {"#": "heading", "|": "table", "- ": "items", "![": "picture"}
    kinds: list[str] = []
    fenced = False
    for line in lines:
        fence = line.startswith("```")
        kind = next((kind for mark, kind in marks.items() if line.startswith(mark)), "text")
        if fence or fenced:
            kind = "code"
        elif not line.strip():
            kind = ""
        elif line.startswith(" ") and kinds and kinds[-1] == "items":
            kind = "items"
        fenced ^= fence
        kinds.append(kind)
    return kinds


def _read(kind: str, lines: list[str], folder: Path) -> list[Block]:
    if kind == "heading":
        return [Heading(line.lstrip("#").strip(), len(line.split()[0])) for line in lines]
    if kind == "table":
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return [Table(head, rows)]
    if kind == "items":
        joined = "\n".join(lines).replace("\n  ", " ")
        return [Items([line.removeprefix("- ") for line in joined.splitlines()])]
    if kind == "picture":
        parts = [line.removeprefix("![").rstrip(")").partition("](") for line in lines]
        return [Picture(folder / name, caption) for caption, _, name in parts]
    if kind == "code":
        return [Code("\n".join(line for line in lines if not line.startswith("```")))]
    return [Text(" ".join(lines))] if kind else []
