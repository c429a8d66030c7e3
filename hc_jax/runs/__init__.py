"""What a run keeps on disk: its folder, lock, checkpoints with their manifests, and metrics."""
