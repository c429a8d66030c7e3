"""The configs that come with hc_jax: `from hc_jax.configs import base`.

Their files are in the folder configs/, which is at the top of a checkout, and next to this file in
an installed hc_jax. `__path__` makes this module their package.
"""

from pathlib import Path

_inside = Path(__file__).with_suffix("")
FOLDER = _inside if (_inside / "base.py").is_file() else _inside.parents[1] / "configs"
__path__ = [str(FOLDER)]
