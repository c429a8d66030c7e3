"""Training of the arms of a sweep, and the files that keep their measurements."""
