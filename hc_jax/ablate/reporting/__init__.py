"""Reports what a sweep shows: tables, figures, statistics."""
