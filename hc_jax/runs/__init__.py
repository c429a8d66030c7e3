"""Files of a run: folder, lock, checkpoints with manifests, metrics, and their mirror."""
