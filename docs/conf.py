"""Sphinx's settings. `make docs` builds the site from the pages of this folder, without network."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import hc_jax  # noqa: E402

project = "hc_jax"
author = "the authors of hc_jax"
version = release = hc_jax.__version__
html_title = "hc_jax"
extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx_files.mathml",
  "sphinx_files.links",
  "sphinx_files.public",
]

# Links between pages name a heading as GitHub does.
myst_heading_anchors = 6
myst_enable_extensions = ["dollarmath"]
# Types of other packages have no page without a network, so names of Python are not looked up.
nitpick_ignore_regex = [("py:.*", ".*")]
suppress_warnings = ["ref.python"]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
napoleon_numpy_docstring = False
maximum_signature_line_length = 80
toc_object_entries = False
nb_execution_mode = "off"  # a notebook is shown as it is stored

html_theme = "sphinx_book_theme"
html_theme_options = {
  "repository_url": "https://github.com/hc-jax/hc_jax",
  "path_to_docs": "docs",
  "use_repository_button": True,
  "show_navbar_depth": 1,
  "navbar_persistent": [],  # the list of pages has a search box
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
