"""The user's own text files, as a TFDS dataset."""

from hc_jax.data.builders.text_files.text_files_dataset_builder import Builder

__all__ = ["Builder"]
