"""The documentation: ``python -m sphinx -W docs site``, then open site/index.html.

Pages are Markdown (MyST); the reference is made from the docstrings. Nothing is fetched, neither
when the site is built nor when it is read: formulas are MathML, which browsers show by themselves.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

HERE = Path(__file__).resolve().parent
EXPERIMENTS = HERE.parent / "experiments"
LINKS = {
    "results/": "",
    "../results/": "",
    "../gleam/weights/general-2d.md": "/general_2d.md",
    "../gleam/weights/general-2d-deep.md": "/general_2d_deep.md",
    "peers/README.md": "peers.md",
}
"""In the texts of the experiments, and where the same is on the site."""
sys.path.insert(0, str(HERE.parent))

project = "GLEAM"
copyright = "the GLEAM authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 80

html_theme = "furo"
html_title = "GLEAM"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False


def _inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer: HTML5Translator, node: nodes.math_block) -> None:
    formula = tex2mathml(node.astext(), as_block=True)
    # Without space around it the theme would show scroll bars.
    writer.body.append(f'<div style="padding: 0.4em 0">{formula}</div>')
    raise nodes.SkipNode


def _copy_results(app: Sphinx) -> None:
    """Experiments and their results lie elsewhere; what a site shows must lie in its folder."""
    folder = HERE / "results"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(EXPERIMENTS / "results", folder)
    pages = "\n```{toctree}\n:hidden:\n:glob:\n\nreport/report\n*\n```\n"
    texts = {"README.md": ("index.md", pages), "peers/README.md": ("peers.md", "")}
    for source, (name, more) in texts.items():
        text = (EXPERIMENTS / source).read_text(encoding="utf-8")
        for link, place in LINKS.items():
            text = text.replace(f"]({link}", f"]({place}")
        (folder / name).write_text(text + more, encoding="utf-8")


def _read_page(app: Sphinx, name: str, source: list[str]) -> None:
    if not name.startswith("results/"):
        text = source[0].replace("../experiments/README.md", "/results/index.md")
        source[0] = text.replace("../experiments/results/", "/results/")
    if name == "command_line":
        source[0] += "\n".join(_commands())


def _commands() -> Iterator[str]:
    """What ``--help`` says of every command, in Markdown."""
    from typer.main import get_command

    from gleam.cli import app

    group: Any = get_command(app)
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        words = " ".join(command.collect_usage_pieces(context))
        text = re.sub(r"(--[a-z]+)", r"`\1`", command.help)
        yield f"## gleam {name}\n\n{text}\n\n```text\ngleam {name} {words}\n```\n"
        for parameter in command.params:
            words = [parameter.metavar or parameter.name.upper()]
            if parameter.param_type_name == "option":
                words = [*parameter.opts, *parameter.secondary_opts]
            yield f"- {', '.join(f'`{word}`' for word in words)}: {parameter.help}"
        yield ""


def setup(app: Sphinx) -> None:
    """Register what is above with Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("builder-inited", _copy_results)
    app.connect("source-read", _read_page)
