"""The page of all settings, made from the fields that check them.

A field's docstring is what its setting means. Its end, from `Default: ` on, says what holds without
the setting, where the field's own default is no value to show.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final

from netloader.config import KEYS, allowed, field_of
from netloader.config.keys import IN_PARTS, UPSTREAM_ONLY
from netloader.config.settings import WorkerSettings
from netloader.program import PROGRAM
from netmesh import MESH_KEYS, MeshSettings
from netmesh.settings import ALLOWED

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Sources and names": (
        "SOURCE",
        "MODEL",
        "CONTENT",
        "IDENTITY",
        "CONFIG_FILE",
    ),
    "Members and how they meet": (
        "MESH",
        "MESH_NAME",
        "MESH_SEEDS",
        "MESH_KEY_FILE",
        "MESH_KEY",
        "MESH_INSECURE",
        "MESH_NETWORKS",
        "MESH_DIRECTORY",
        "MESH_KUBERNETES_SERVICE",
        "DISCOVERY_TIMEOUT",
    ),
    "Addresses and ports": (
        "MESH_ADVERTISE",
        "BIND",
        "MESH_PORT",
        "LISTEN_PORT",
        "LISTEN_ADVERTISE",
        "PORT_RANGE",
        "FABRIC",
    ),
    "Pulling": (
        "MAX_SOURCES",
        "TRANSFER_TIMEOUT",
        "SOURCE_TIMEOUT",
        "PEER_BUDGET",
        "MIN_RATE",
        "VERIFY",
        "CHUNK_BYTES",
        "TRANSPORTS",
    ),
    "Starting together": ("WAIT_FOR_SOURCE", "STORAGE_LOADERS"),
    "Serving": ("MAX_SESSIONS", "RATE_LIMIT", "INT8_CACHE", "INT8_CACHE_NAME"),
    "Storage": ("STORAGE_FORMAT", "STORAGE_CONFIG"),
    "Watching": (
        "METRICS_PORT",
        "METRICS_HOST",
        "REPORT_PREFIX",
        "REPORT_TENSORS",
        "OUTPUT_PREFIX",
    ),
    "vLLM Ascend's own Netloader": ("UPSTREAM", "UPSTREAM_INSECURE"),
}

MORE: Final[Mapping[str, str]] = {
    "SOURCE": "[Ranks](../operations.md#ranks-and-processes)",
    "LISTEN_PORT": "[Ranks](../operations.md#ranks-and-processes)",
    "CONTENT": "[Identity](../concepts/identity.md#content)",
    "IDENTITY": "[Identity](../concepts/identity.md#content)",
    "MESH_SEEDS": "[Seeds](../operations.md#seeds)",
    "MESH_KEY_FILE": "[Keys](../security.md#keys)",
    "MESH_ADVERTISE": "[The address others use](../operations.md#the-address-others-use)",
    "PORT_RANGE": "[Ports](../operations.md#ports-firewalls-nat)",
    "PEER_BUDGET": "[Many sources](../concepts/transfer.md#many-sources)",
    "TRANSPORTS": "[Transports](../concepts/transfer.md#transports)",
    "WAIT_FOR_SOURCE": "[Starting together](../concepts/transfer.md#starting-together)",
    "RATE_LIMIT": "[What serving may cost](../operations.md#what-serving-may-cost)",
    "METRICS_PORT": "[Metrics](../metrics.md)",
    "UPSTREAM": "[vLLM Ascend's own Netloader](../howto/upstream.md)",
}
"""Where a setting's subject is explained."""

CONFIG_FILE: Final = (
    "JSON file with these keys. It wins over the other places, and its `SOURCE` is tried first."
)
"""The one key that no field holds."""

HEAD: Final = """# Settings

<!-- made from the code by `python -m tests.pages`; a test compares -->

Every setting has a default that works on one machine. A setting is a key of
`--model-loader-extra-config`, or of the JSON file that its `CONFIG_FILE` names:

```sh
vllm serve MODEL --load-format netloader --model-loader-extra-config '{"MAX_SOURCES": 2}'
```

Most can be a variable of the environment, too, with `NETLOADER_` in front:

```sh
export NETLOADER_MAX_SOURCES=2
```

`CONFIG_FILE` wins over the extra config, and that wins over the environment. An unknown key or a
bad value stops the start, and the error says what is allowed. A variable with this prefix that is
no setting costs a warning.
"""


def page() -> str:
    rows = [
        f"| [`{key}`](#{key.lower()}) | {default(key)} | {bounds(key)} | {variable(key)} |"
        for keys in GROUPS.values()
        for key in keys
    ]
    table = ["| key | default | allowed | variable |", "|---|---|---|---|", *rows]
    parts = [HEAD, "\n".join(table) + "\n"]
    for title, keys in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [section(key) for key in keys]
    return "\n".join(parts)


def section(key: str) -> str:
    meaning, _ = said(key)
    more = f"More: {MORE[key]}.\n" if key in MORE else ""
    return "\n".join(
        [
            f"### `{key}`\n",
            f"{meaning}\n",
            f"Default: {default(key)}."
            + (f" Allowed: {bounds(key)}." if bounds(key) else "")
            + "\n",
            *([more] if more else []),
        ]
    )


def said(key: str) -> tuple[str, str]:
    """What a setting means, and what holds without it; the latter is empty if a value tells."""
    if key == "CONFIG_FILE":
        return CONFIG_FILE, "none"
    meaning, _, without = " ".join(dict.fromkeys(_docstrings(key))).partition("Default: ")
    return meaning.strip(), without.removesuffix(".")


def default(key: str) -> str:
    """The default as a page shows it: a value, or words. Raises `ValueError` without either."""
    if key == "MESH_KUBERNETES_SERVICE":
        return f"`{PROGRAM.service}`"
    without = said(key)[1]
    if without:
        return without
    value = field_of(key)[1].get_default(call_default_factory=True)
    if value in (None, (), {}):
        raise ValueError(f"{key} has no default, and its docstring does not say what holds then")
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def bounds(key: str) -> str:
    """What a setting may be, in the words of its errors."""
    if key == "CONFIG_FILE":
        return "the path of a JSON file"
    return ALLOWED[key].removeprefix("use ") if key in MESH_KEYS else allowed(key)


def variable(key: str) -> str:
    return "no" if key in UPSTREAM_ONLY else "yes"


def _docstrings(key: str) -> Iterator[str]:
    """Those of all fields that a setting fills."""
    if key in IN_PARTS:
        for part, name in IN_PARTS[key].items():
            yield _docstring(part, name)
    else:
        yield _docstring(MeshSettings if key in MESH_KEYS else WorkerSettings, field_of(key)[0])


def _docstring(part: type, name: str) -> str:
    return _told(part)[name]


@functools.cache
def _told(part: type) -> Mapping[str, str]:
    """The docstrings of a class's fields."""
    (tree,) = ast.parse(inspect.getsource(part)).body
    assert isinstance(tree, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(after.value.value.split())
        for field, after in pairwise(tree.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


UNSORTED: Final = KEYS ^ {key for keys in GROUPS.values() for key in keys}
"""Settings without a group, and keys that are no settings; none."""
