"""Build time: `python -m exporting audit` and `bake`. Imports tensorflow; nothing under serving/ imports it."""
