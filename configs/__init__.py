"""The experiments: one short file each, `get_config([arg])`."""
