"""What the identity of a large checkpoint costs on storage that answers slowly.

    python -m tests.loader.slow_storage --tensors 100000 --files 160 --delay-ms 0.5

Writes sparse files, which take no room, and delays every `os.pread`. Prints for each kind of
evidence how long it took, and how many reads of how many bytes; for `sample` then the same from the
cache of the host.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.loader.trees import of, snapshot, sparse

from netloader.checkpoint.evidence import Reading, WeightFile, blobs, sample, stamps
from netloader.checkpoint.hostcache import HostCache


class SlowStorage:
    """`os.pread`, later. Counts in the cheapest way: 100,000 calls are measured."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self.sizes: list[int] = []

    def pread(self, file: int, size: int, offset: int) -> bytes:
        self.sizes.append(size)
        time.sleep(self._delay_s)
        return os.pread(file, size, offset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tensors", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=160)
    parser.add_argument("--tensor-kib", type=int, default=2048)
    parser.add_argument("--delay-ms", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    each = asked.tensors // asked.files
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = {}
        for part in range(asked.files):
            name = f"model-{part:05}-of-{asked.files:05}.safetensors"
            names = [f"model.layers.{at}.mlp.experts.{part}.weight" for at in range(each)]
            paths[name] = sparse(root / name, names, asked.tensor_kib * 1024)
        plain = of(paths.values())
        print(f"{each * asked.files} tensors of {asked.tensor_kib} KiB in {asked.files} files")
        for _ in range(asked.rounds):
            measure("sample", sample, plain, asked.delay_ms, asked.threads)
        later = max(stamp.ctime_ns for stamp in stamps(plain)) / 1e9 + 60
        cache = HostCache(root / "cache", clock=lambda: later)
        sample(plain, cache)
        cached: Callable[..., str] = lambda files, reading: sample(files, cache, reading=reading)  # noqa: E731
        measure("sample, cached", cached, plain, asked.delay_ms, asked.threads)
        named = []
        for at, (name, path) in enumerate(paths.items()):
            named += snapshot(root, {name: path}, blob=f"{at:064x}")
        for _ in range(asked.rounds):
            measure("blobs", blobs, named, asked.delay_ms, asked.threads)


def measure(
    what: str,
    evidence: Callable[..., str | None],
    files: Sequence[WeightFile],
    delay_ms: float,
    threads: int,
) -> None:
    storage = SlowStorage(delay_ms / 1e3)
    begun, cpu = time.perf_counter(), time.process_time()
    evidence(files, reading=Reading(threads, storage.pread))
    took, worked = time.perf_counter() - begun, time.process_time() - cpu
    reads, megabytes = len(storage.sizes), sum(storage.sizes) / 1e6
    print(
        f"{what:14}  {took:5.2f} s  {worked:5.2f} s CPU  {reads:6} reads  {megabytes:6.1f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
