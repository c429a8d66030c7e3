"""TFDS dataset builders, each in a package of its own, as TFDS wants them."""
