"""Reports of sweeps: tables, figures, statistics."""
