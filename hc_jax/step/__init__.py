"""What one step is, pure: state, loss, optimizer, evaluation; no disk and no config."""
