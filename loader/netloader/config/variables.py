"""Variables of the environment that look like settings and are none: the operator is told.

A misspelt key in `--model-loader-extra-config` stops the start. A variable may have been written by
somebody else, so it costs a line in the log.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from netloader.config.keys import KEYS, UPSTREAM_ONLY
from netloader.program import ENV_PREFIX
from netmesh import is_of_service

_SETTINGS: Final = frozenset(ENV_PREFIX + key for key in KEYS - UPSTREAM_ONLY)

_KEYS_ONLY: Final = frozenset(ENV_PREFIX + key for key in UPSTREAM_ONLY)

_SERVICES: Final = re.compile(
    r"(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$"
)
"""How the names of variables end that Kubernetes writes for a Service, besides the one that ends
with `_PORT`."""


def told(environ: Mapping[str, str], others: Iterable[str] = ()) -> Iterator[str]:
    """One line for each variable with our prefix that no setting is read from, in words.

    `others` are names of this package that are no settings.
    """
    ours = _SETTINGS | frozenset(others)
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX):
            continue
        key = name.removeprefix(ENV_PREFIX)
        if is_of_service(name, environ[name]):
            if name in ours:
                yield (
                    f"{name}={environ[name]} is ignored: Kubernetes wrote it for a Service of that "
                    f"name. To set a port, put {key} into --model-loader-extra-config. To be rid "
                    "of the variable, rename the Service, make it headless (clusterIP: None), or "
                    "set enableServiceLinks: false in the pod"
                )
        elif name in _KEYS_ONLY:
            yield (
                f"{name} is ignored: {key} is set in --model-loader-extra-config, and has no "
                "variable, as in vLLM Ascend"
            )
        elif name not in ours and not _is_of_service(name):
            near = difflib.get_close_matches(name, _SETTINGS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"{name} is ignored: there is no such setting{hint}"


def _is_of_service(name: str) -> bool:
    return _SERVICES.search(name) is not None
