"""Changes that cannot travel are refused, and nothing but plain attributes is set."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from tests.loader.model.attributed import Kernel, Mode, Model, model
from torch import nn

from netloader.errors import ManifestError
from netloader.model import attributes

CANNOT: dict[str, tuple[Callable[[Model], object], str]] = {
    "object": (lambda made: setattr(made, "todo", object()), "set todo to a object"),
    "object in a list": (
        lambda made: made.order.append(Kernel()),
        r"set order\[2\] to a Kernel",
    ),
    "tensor": (lambda made: made.tensor.add_(1), r"changed tensor \(content\)"),
    "array": (lambda made: made.array.fill(1), r"changed array \(content\)"),
    "new tensor": (lambda made: setattr(made, "todo", torch.zeros(1)), "set todo to a Tensor"),
    "hidden module": (
        lambda made: nn.init.ones_(made.hidden[0].weight),
        r"changed hidden\[0\].*weight.* \(content\), a Parameter",
    ),
    "counter": (lambda made: made.counts.update("a"), "set counts to a Counter"),
    "deque": (lambda made: made.ready.append(1), "set ready to a deque"),
    "defaultdict": (lambda made: made.groups["b"], "set groups to a defaultdict"),
    "factory": (lambda made: setattr(made.groups, "default_factory", set), r"groups\.default_fac"),
    "order": (lambda made: made.sorted.move_to_end("a"), "set sorted to a OrderedDict"),
    "enum": (lambda made: setattr(made, "mode", Mode.TWO), "set mode to a Mode"),
    "dtype": (lambda made: setattr(made, "dtype", torch.int8), "set dtype to a dtype"),
    "bytes": (lambda made: setattr(made, "extra", b"y"), "set extra to a bytes"),
    "bytearray": (lambda made: made.raw.append(1), r"changed raw \(value\)"),
    "partial": (
        lambda made: setattr(made, "call", functools.partial(print, 2, end="")),
        r"set call\.args",
    ),
    "closure": (lambda made: made.hook().update(seen=1), r"changed hook \(closure kept\)"),
    "function": (lambda made: setattr(made, "hook", lambda: 5), "changed hook|set hook"),
    "loader": (
        lambda made: setattr(made.inner.weight, "loader", made.inner.forward),
        "set inner.weight.loader to a",
    ),
    "in a dict": (lambda made: made.inner.method.named.update(x=object()), "named"),
    "removed": (lambda made: delattr(made, "scale"), "removed scale"),
    "of a parameter": (lambda made: vars(made.inner.weight).clear(), "removed inner.weight.dim"),
    "replaced object": (
        lambda made: setattr(made.inner, "method", Kernel()),
        "set inner.method to a Kernel",
    ),
    "new module": (lambda made: setattr(made, "more", nn.Identity()), "added more"),
    "module gone": (lambda made: delattr(made, "inner"), "removed inner"),
    "other module": (
        lambda made: setattr(made, "inner", nn.Linear(2, 2)),
        "made inner a Linear, it was a Inner",
    ),
    "hook": (
        lambda made: made.inner.register_forward_hook(lambda *_: None),
        r"set inner\._forward_hooks",
    ),
    "not shared any more": (
        lambda made: made.order.__setitem__(1, ["b"]),
        r"who shares",
    ),
    "newly shared": (
        lambda made: setattr(made, "todo", made.inner.names),
        "who shares",
    ),
    "shared and new": (
        lambda made: [vars(made).update(todo=new, text=new) for new in ([1],)],
        "who shares",
    ),
    "text": (lambda made: setattr(made, "text", "x" * 5000), "5000 characters"),
    "no Unicode": (lambda made: setattr(made, "text", "\ud800"), "no Unicode"),
    "many": (lambda made: setattr(made, "todo", list(range(10_001))), "10001 values"),
    "deep": (
        lambda made: setattr(made, "todo", functools.reduce(lambda x, _: [x], range(9), [])),
        "deeper than 8 levels",
    ),
    "dotted": (lambda made: vars(made).update({"a.b": 1}), r"set a\.b, which"),
}


@pytest.mark.parametrize("change", CANNOT)
def test_anything_else_cannot_travel(change: str) -> None:
    made = model()
    make, said = CANNOT[change]
    before = attributes.snapshot(made)
    make(made)
    with pytest.raises(ManifestError, match=said):
        attributes.changes(made, before)


def test_view_of_a_weight_is_the_weight() -> None:
    made = model()
    made.todo = made.inner.weight.detach().t()
    before = attributes.snapshot(made)
    nn.init.ones_(made.inner.weight)
    assert attributes.changes(made, before) == {}
    made.todo = made.inner.weight.detach()
    with pytest.raises(ManifestError, match=r"changed todo \(content\)"):
        attributes.changes(made, before)


def test_settings_of_the_process_are_nobodys_to_change() -> None:
    settings = type("Settings", (), {"__module__": "vllm.config.model"})()
    settings.trust = False
    made = model()
    made.settings = settings
    before = attributes.snapshot(made)
    with pytest.raises(ManifestError, match=r"no settings here"):
        attributes.apply(made, {"settings.trust": True})
    settings.trust = True
    with pytest.raises(ManifestError, match=r"set settings\.trust, part of the settings"):
        attributes.changes(made, before)


def test_what_lies_too_deep_is_not_passed_over() -> None:
    made = model()
    chain: list[object] = []
    for _ in range(50):
        chain = [chain, Kernel()]
    made.todo = chain
    before = attributes.snapshot(made)
    with pytest.raises(ManifestError, match=r"cannot tell what .* todo\[0\].* 32 steps"):
        attributes.changes(made, before)


def test_tensor_whose_bytes_cannot_be_read_is_not_passed_over() -> None:
    made = model()
    made.todo = torch.zeros(2, 2).to_sparse()
    before = attributes.snapshot(made)
    with pytest.raises(ManifestError, match=r"cannot tell what .* todo.*bytes cannot be read"):
        attributes.changes(made, before)


def test_object_that_cannot_be_looked_into_stops_no_start() -> None:
    class Odd(dict[str, int]):
        def __class_getitem__(cls, item: object) -> object:
            raise AssertionError

        @property
        def __dict__(self) -> dict[str, object]:  # type: ignore[override]
            raise RuntimeError("nothing to see")

    made = model()
    made.todo = Odd(a=1)
    before = attributes.snapshot(made)
    with pytest.raises(ManifestError, match=r"cannot tell what .*nothing to see"):
        attributes.changes(made, before)


@pytest.mark.parametrize(
    "path",
    [
        "gone.scale",
        "inner.weight",
        "inner",
        "forward",
        "inner.__class__",
        "_modules",
        "inner._buffers",
        "inner._forward_hooks",
        "computed",
        "lazy",
        "inner.method",
        "inner.method.kernel",
        "inner.method.kernel.other",
        "inner.method.named.kernel",
        "inner.weight.data",
        "inner.weight.loader",
        "tensor",
        "mode",
        "hook.__code__",
        "",
        "inner.",
    ],
)
def test_nothing_but_plain_attributes_is_overwritten(path: str) -> None:
    made = model()
    with pytest.raises(ManifestError, match="the source set"):
        attributes.apply(made, {"scale": 3.0, path: 1})
    assert made.scale == 1.0
