"""`mesh-inspect`: who is in the mesh and which weights they hold, seen without joining it.

`rows.py` turns members into rows, `render.py` rows into text, `cli.py` is the command. The JSON
that it prints is described in docs/mesh-inspect.md.
"""
