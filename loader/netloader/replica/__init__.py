"""The pulling side, from candidates to verified chunks in place."""
