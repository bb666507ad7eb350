"""The error tree is complete, and drawn as it is."""

from __future__ import annotations

from types import ModuleType

import pytest
from tests.error_trees import defined, drawn, exceptions

import netloader
from netloader import errors
from netloader.errors import NetloaderError

ELSEWHERE = (
    "netloader.engine",
    "netloader.transport.acl",
    "netloader.transport.hccl",
    "netloader.transport.hccl_forming",
    "netloader.transport.hccl_link",
    "netloader.transport.hccl_ordered",
    "netloader.transport.npu",
)
"""Need vLLM or torch_npu to be imported, or define an error that the importing file translates."""


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn(errors) == defined(NetloaderError, netloader, *ELSEWHERE)


def test_every_exception_of_ours_is_in_the_tree() -> None:
    ours = exceptions(netloader, *ELSEWHERE)
    assert {one.__name__ for one in ours if not issubclass(one, NetloaderError)} == set()


def test_a_tree_is_read_with_its_parents() -> None:
    module = ModuleType("drawing")
    module.__doc__ = """A title.

    Base
    ├── One        with a word on it
    │   ├── Two    and more
    │   └── Three
    └── Four

Text after it, in which Nothing counts.

    Later
"""
    assert drawn(module) == {
        "Base": "",
        "One": "Base",
        "Two": "One",
        "Three": "One",
        "Four": "Base",
    }


@pytest.mark.parametrize(
    ("drawing", "fault"),
    [
        ("    Base\n    │   └── Two", "hangs in the air"),
        ("    Base\n    ├── One\n    └── One", "drawn twice"),
    ],
)
def test_a_tree_that_is_none_is_told(drawing: str, fault: str) -> None:
    module = ModuleType("drawing")
    module.__doc__ = drawing
    with pytest.raises(AssertionError, match=fault):
        drawn(module)
