"""The packages of a wheel, in which configs/ is hc_jax.configs; the rest is in pyproject.toml."""

from setuptools import find_namespace_packages, find_packages, setup

configs = find_namespace_packages(include=["configs", "configs.*"], exclude=["*.__pycache__"])
setup(
  packages=find_packages(include=["hc_jax", "hc_jax.*"]) + [f"hc_jax.{name}" for name in configs],
  package_dir={"hc_jax.configs": "configs"},
)
