"""`mesh-inspect top`: a mesh on the whole screen, looked at again each second.

`picture.py` is what one look shows, `lists.py` its lists, `fitting.py` what of a list fits the
screen, and `headline.py` and `details.py` are the words around them: none of these knows textual.
`table.py` draws a list, `app.py` is the screen with its keys, `looks.py` the thread that looks, and
`terminal.py` hands a terminal over to the screen and takes it back. No other room imports textual.
"""
