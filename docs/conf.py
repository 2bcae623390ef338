"""The documentation: ``python -m sphinx -W docs site``, then open site/index.html.

Pages are Markdown (MyST); the reference is made from the docstrings. Nothing is fetched, neither
when the site is built nor when it is read: formulas are MathML, which browsers show by themselves.
"""

import shutil
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

HERE = Path(__file__).resolve().parent
RESULTS = "../experiments/results/"
sys.path.insert(0, str(HERE.parent))

project = "GLEAM"
copyright = "the GLEAM authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["site"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Results hold links to the folder they lie in, and levels of headings of their own.
suppress_warnings = ["myst.header", "myst.xref_missing"]
nitpicky = False

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
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def _copy_results(app: Sphinx) -> None:
    """Results lie with the experiments; pages of the site must lie beneath it."""
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    for path in (HERE / RESULTS).iterdir():
        if path.suffix in (".md", ".png"):
            shutil.copyfile(path, folder / path.name)


def _link_results(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = source[0].replace(RESULTS, "/results/")


def setup(app: Sphinx) -> None:
    """Register what is above with Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("builder-inited", _copy_results)
    app.connect("source-read", _link_results)
