"""The live map: a server on loopback that shows a mesh, or a recording of one, to browsers.

`api` answers, `gate` decides who may ask, `live` and `playback` say what there is to see, and
`broadcast` hands it to all who watch. `static/` is the page.
"""
