"""`mesh-inspect`: shows who is in the mesh and which weights they hold, without joining the mesh.

`view/` says what a look at the mesh means, `output/` how it is written, and `commands/` has a file
for each command, which `cli.py` finds. `top/` is the whole screen and `web/` the map in a browser.
docs/mesh-inspect.md describes the command line and its documents.
"""
