"""`mesh-inspect`: shows who is in the mesh and which weights they hold, without joining the mesh.

`rows.py` turns members into rows, `render.py` turns rows into text, and `cli.py` is the command.
docs/mesh-inspect.md describes its JSON.
"""
