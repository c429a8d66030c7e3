"""One training step as pure functions: state, loss, optimizer, evaluation; no disk, no config."""
