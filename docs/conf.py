"""Sphinx: `sphinx-build -W docs site`."""

import minibatch_jax

project = "minibatch_jax"
author = copyright = "The minibatch_jax authors"
release = minibatch_jax.__version__
extensions = ["myst_parser"]
exclude_patterns = ["site"]
html_theme = "furo"
html_static_path = ["_static"]
html_title = "minibatch_jax"
myst_heading_anchors = 3
