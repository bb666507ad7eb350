"""Configurations for tests, loaded as a worker would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from netloader.config import Config
from netloader.errors import ConfigError

NO_ENVIRONMENT: dict[str, str] = {}


SOURCE = [{"device_id": 0, "sources": ["10.0.0.1:19374", "[::1]:19375"]}]


def load(environ: dict[str, str] | None = None, **extra: object) -> Config:
    return Config.load(extra, environ or NO_ENVIRONMENT)


def written(folder: Path, content: object) -> str:
    path = folder / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def complaint(**extra: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config.load(extra, NO_ENVIRONMENT)
    return caught.value
