"""Settings of the site: `sphinx-build -W --keep-going docs site`."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import generate

import minibatch_jax

generate.write_api()

project = "minibatch_jax"
author = "The minibatch_jax authors"
copyright = "2026, The minibatch_jax authors"
release = minibatch_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"minibatch_jax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["gallery/*.py"]
myst_heading_anchors = 3
default_role = "code"
add_module_names = False
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


def as_plain_text(app, what, name, obj, options, lines):
    """Read docstrings as the plain text they are: each reference is an item of a list, and a bar is a bar."""
    section = ""
    for i, line in enumerate(lines):
        if re.fullmatch(r"[A-Z][a-z]+:", line):
            section = line
        elif section == "References:" and re.match(r"  \S", line):
            lines[i] = f"  - {line.strip()}"
        elif section != "Examples:":
            lines[i] = re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or r"\|", line)


def setup(app):
    app.connect("autodoc-process-docstring", as_plain_text, priority=400)  # before napoleon
