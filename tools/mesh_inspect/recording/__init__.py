"""A file of what a mesh did: JSON Lines, written line by line, read by time.

`lines` says what a line is, `track` what a recorder writes of a look, `writer` and `reader` are the
file. docs/recording.md describes it for others; `schema/recording-v1.json` is its schema.
"""
