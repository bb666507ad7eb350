"""Netloader Mesh: load vLLM weights from a peer that already holds them.

Importing this package is cheap and touches neither torch nor vLLM; vLLM enters through
`netloader.engine.plugin`.
"""

__version__ = "0.1.0"
