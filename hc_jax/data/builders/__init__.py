"""TFDS dataset builders, each in its own package, as TFDS requires."""
