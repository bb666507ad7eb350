"""What an installed wheel has of the page."""

from __future__ import annotations

import re

from setuptools import Distribution
from setuptools.command.build_py import build_py
from tests.forked import ROOT

PACKAGE = ROOT / "tools" / "mesh_inspect"
STATIC = PACKAGE / "web" / "static"

LINK = re.compile(r"""(?:from|import\(|href=|src=) ?["']([^"'#:]+\.(?:js|css|svg))["']""")


def test_a_wheel_has_every_file_of_the_page() -> None:
    distribution = Distribution()
    distribution.parse_config_files([str(ROOT / "pyproject.toml")])
    command = build_py(distribution)
    command.ensure_finalized()
    command.manifest_files = {}
    packed = set(command.find_data_files("mesh_inspect", str(PACKAGE)))
    wanted = {str(file) for file in STATIC.rglob("*") if file.is_file()}
    assert len(wanted) > 20
    assert wanted - packed == set()


def test_the_page_needs_no_file_that_is_not_there() -> None:
    for file in (one for one in STATIC.rglob("*") if one.suffix in (".js", ".html")):
        for link in LINK.findall(file.read_text()):
            place = STATIC / link.removeprefix("/static/") if link[0] == "/" else file.parent / link
            assert place.is_file(), f"{file.name} names {link}"


def test_the_page_names_no_place_elsewhere() -> None:
    for file in (one for one in STATIC.rglob("*") if one.is_file()):
        found = re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", file.read_text())
        assert [link for link in found if "www.w3.org/2000/svg" not in link] == [], file.name


def test_the_page_asks_for_all_its_modules_at_once() -> None:
    """Otherwise a browser learns of one only when it has read the one that needs it."""
    page = (STATIC / "index.html").read_text()
    modules = {f"/static/{file.relative_to(STATIC)}" for file in STATIC.rglob("*.js")}
    assert set(LINK.findall(page)) >= modules
