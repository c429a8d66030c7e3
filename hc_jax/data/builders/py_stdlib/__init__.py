"""The source files of the Python standard library, as a TFDS dataset."""

from hc_jax.data.builders.py_stdlib.py_stdlib_dataset_builder import Builder, find_sources

__all__ = ["Builder", "find_sources"]
