"""Sphinx configuration: ``sphinx-build -W docs docs/_build``."""

from anomalib_lite import __version__

project = "anomalib_lite"
author = "the anomalib_lite developers"
release = __version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Image anomaly detectors as scikit-learn estimators"}
numpydoc_show_class_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings name types, with shapes
# a folder's __all__ lists its members; what scikit-learn, torch and tuple add is left out
autodoc_default_options = {
    "members": True,
    "inherited-members": "BaseEstimator, Module, tuple",
    "exclude-members": "get_metadata_routing, set_fit_request, set_output, set_predict_request, "
    "set_score_request",
}
