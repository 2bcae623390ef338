"""A report as one HTML page that holds all it shows and asks for nothing."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template

from experiments.report_blocks import (
    Block,
    Code,
    Fold,
    Frames,
    Heading,
    Items,
    Picture,
    Slider,
    Table,
    Text,
)

PAGE = Path(__file__).parent / "page"
MARKED = re.compile(r"(?P<ticks>`+)(?P<code>.+?)(?P=ticks)|\*\*(?P<bold>.+?)\*\*")
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
NUMBER = re.compile(r"[+\-−]?\d[\d.e+\-]*( ?(±|to) ?[+\-−]?\d[\d.e+\-]*)?( ?%)?")
LONG = 45  # characters of a cell that is given room to wrap


def to_html(blocks: Sequence[Block]) -> str:
    """The page; its title is the first heading, after which the contents are listed."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = "\n".join(_html(blocks))
    end = body.index("</h1>") + len("</h1>")
    files = {name: (PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js")}
    return Template((PAGE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=files["style.css"],
        script=files["script.js"],
        body=body[:end] + _contents(blocks) + body[end:],
    )


def _html(blocks: Sequence[Block]) -> Iterator[str]:
    """Pictures that follow each other stand side by side where there is room."""
    for together, group in groupby(blocks, lambda block: isinstance(block, Picture)):
        parts = [_block(block) for block in group]
        yield (
            '<div class="pictures">\n' + "\n".join(parts) + "\n</div>"
            if together
            else "\n".join(parts)
        )


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            name = f' id="{anchor(text)}"' if level == 2 else ""
            return f"<h{level}{name}>{inline(text)}</h{level}>"
        case Text(text):
            return f"<p>{inline(text)}</p>"
        case Items(items):
            return "<ul>" + "".join(f"<li>{_verdict(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Table():
            return _table(block)
        case Picture(path, caption):
            image = f'<img src="{data_uri(path)}" alt="{escape(caption)}" loading="lazy">'
            return f"<figure>{image}<figcaption>{inline(caption)}</figcaption></figure>"
        case Slider(frames):
            return _slider(frames)
        case Fold(summary, inner):
            content = "\n".join(_html(inner))
            return f"<details><summary>{inline(summary)}</summary>\n{content}\n</details>"


def inline(text: str) -> str:
    """Code, bold and links inside a text."""
    parts = []
    place = 0
    for found in MARKED.finditer(text):
        parts.append(_links(text[place : found.start()]))
        if found["code"] is not None:
            parts.append(f"<code>{escape(found['code'])}</code>")
        else:
            parts.append(f"<strong>{_links(found['bold'])}</strong>")
        place = found.end()
    return "".join([*parts, _links(text[place:])])


def _links(text: str) -> str:
    return LINK.sub(r'<a href="\2">\1</a>', escape(text))


def _verdict(text: str) -> str:
    """An item that begins with "met:" or "missed:" shows which."""
    word, colon, rest = text.partition(":")
    if colon and word in ("met", "missed"):
        return f'<span class="{word}">{word}</span>:{inline(rest)}'
    return inline(text)


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"><button type="button">{inline(cell)}</button></th>' for cell in table.head
    )
    rows = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
    return (
        '<div class="box" tabindex="0" role="region" aria-label="table"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _cell(text: str) -> str:
    if text in ("met", "missed"):
        return f'<td><span class="{text}">{text}</span></td>'
    if NUMBER.fullmatch(text):
        return f'<td class="number">{escape(text)}</td>'
    return f'<td class="{"long" if len(text) > LONG else "name"}">{inline(text)}</td>'


def _slider(frames: Sequence[Frames]) -> str:
    last = max(len(frame.psnr) for frame in frames) - 1
    return (
        '<div class="slider"><label>After step <output></output>'
        f'<input type="range" min="0" max="{last}" value="{last}" step="1"></label>\n'
        '<div class="frames">\n' + "\n".join(map(_frame, frames)) + "\n</div></div>"
    )


def _frame(frame: Frames) -> str:
    height, width = frame.shape
    values = (
        f' data-name="{escape(frame.name)}" data-psnr="{json.dumps([*frame.psnr])}"'
        f' data-ends="{json.dumps([*frame.ends])}"'
        if frame.psnr
        else ""
    )
    style = f"aspect-ratio: {width} / {height}; background-image: url({data_uri(frame.path)})"
    return (
        f'<div class="frame"{values}><div role="img" aria-label="{escape(frame.name)}" '
        f'style="{style}"></div><strong>{escape(frame.name)}</strong><output></output></div>'
    )


def _contents(blocks: Sequence[Block]) -> str:
    links = [
        f'<li><a href="#{anchor(block.text)}">{inline(block.text)}</a></li>'
        for block in blocks
        if isinstance(block, Heading) and block.level == 2
    ]
    return '\n<nav aria-label="contents"><ol>' + "".join(links) + "</ol></nav>\n"


def anchor(text: str) -> str:
    """The name of a heading in links."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def data_uri(path: Path) -> str:
    """A file as an address that holds it."""
    kind = path.suffix.lstrip(".")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
