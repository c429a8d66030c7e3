"""Files to copy into a project instead of installing this package; nothing here imports it."""
