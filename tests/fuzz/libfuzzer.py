"""One target under atheris (libFuzzer for Python). A process of its own: the driver never returns.

Called by `tests.fuzz`; the arguments are target, runs, seed, and the folder for corpus and counts.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped,unused-ignore]

from tests.fuzz.target import COVERED

with atheris.instrument_imports(include=list(COVERED[sys.argv[1]])):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.campaign import Campaign
from tests.fuzz.mutate import mutate_json

MAX_INPUT_BYTES = 2 * 1024
"""Long inputs find nothing that short ones do not, only slower; test_fuzz.py has the longest."""

AFRESH = 0.25
"""Share of inputs that come from a seed, not from what coverage has selected."""

JSON_AWARE = 0.6
"""Share of inputs changed as JSON; the others as bytes."""


def main() -> None:
    name, runs, seed, folder = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    target = next(one for one in TARGETS if one.name == name)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.seeds):
        (corpus / f"seed-{number:02}").write_bytes(data)
    campaign = Campaign(target, folder / "counts")

    def mutate(data: bytes, size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < AFRESH:
            # Messages that differ only inside a validator written in Rust look all alike to the
            # coverage of Python: without this, one of them would be all that is ever changed.
            data = rng.choice(target.seeds)
        if rng.random() < JSON_AWARE:
            changed = mutate_json(data[target.head :], rng)
            if changed is not None and target.head + len(changed) <= size:
                return data[: target.head] + changed
        return bytes(atheris.Mutate(data, size))

    options = {
        "runs": runs,
        "seed": seed,
        "max_len": MAX_INPUT_BYTES,
        "mutate_depth": 2,  # changes made to an input in a row; more leave nothing intact
        "timeout": 5,  # seconds for one input; ends the run
        "rss_limit_mb": 1024,  # so does more memory than this
        "artifact_prefix": f"{folder}/",
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup(
        [sys.argv[0], *arguments, str(corpus)],
        campaign.run,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
