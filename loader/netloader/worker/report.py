"""Where one model's weights came from, as a record for operators and tests."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import orjson

from netloader.replica.pull import Delivery


@dataclass(frozen=True, slots=True)
class Report:
    """How one model was loaded by one rank."""

    model: str
    role: str
    rank: int
    origin: Literal["storage", "peers"]
    nbytes: int
    """Bytes of weights."""
    seconds: float
    """Time of the step that filled the tensors, in seconds: the pull, or the load from storage."""
    endpoint: str = ""
    """Where this rank serves these weights to others; empty when it does not."""
    transports: tuple[str, ...] = ()
    """What can carry these weights to others, best first; empty when the rank does not serve."""
    deliveries: tuple[Delivery, ...] = ()
    """What each source contributed, including sources of a pull that was given up."""
    skipped: tuple[str, ...] = ()
    """Sources that failed or were not used, in order, each with its reason."""
    content: dict[str, str] = field(default_factory=dict)
    """What is known about the checkpoint's content, by kind of evidence."""
    not_a_source: str = ""
    """Why this rank is not a source; empty when it is one."""
    layout: str = ""
    """How they are served: `checkpoint`, as loaded, or `runtime`, as post-processing left them.
    Empty when they are not."""
    tensors: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every tensor, if `REPORT_TENSORS` asks for it."""

    @property
    def gigabytes_per_second(self) -> float:
        return self.nbytes / self.seconds / 1e9 if self.seconds > 0 else 0.0

    def write(self, prefix: str) -> Path:
        """Write `{prefix}{rank}.json` (a draft: `{prefix}{rank}.draft.json`), atomically.

        Raises `OSError` when the folder is missing or not writable.
        """
        suffix = "" if self.role == "target" else f".{self.role}"
        path = Path(f"{prefix}{self.rank}{suffix}.json")
        record = asdict(self) | {"gigabytes_per_second": self.gigabytes_per_second}
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2))
        fresh.replace(path)
        return path
