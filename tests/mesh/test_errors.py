"""The error tree is complete, and drawn as it is."""

from __future__ import annotations

from tests.error_trees import defined, drawn, exceptions

import netmesh
from netmesh import errors
from netmesh.errors import MeshError


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn(errors) == defined(MeshError, netmesh)


def test_every_exception_of_ours_is_in_the_tree() -> None:
    ours = exceptions(netmesh)
    assert {one.__name__ for one in ours if not issubclass(one, MeshError)} == set()
