"""`make demo`: a second `vllm serve` finds the first by itself and takes its weights from it.

Everything is real and on this machine: two vLLM servers started by the same command, the mesh
between them, `mesh-inspect`, and one request to each. Ends with status 0 only when the second
server's weights came from the first over a process group and both answered alike.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.e2e.models import make_llama
from tests.e2e.processes import isolated_environment
from tests.e2e.raw_gloo import RawGloo, measure
from tests.e2e.servers import Server, ServerError, stop_all

_MODEL_MEGABYTES = 200
_PROMPT = "A replica that has to be up now"


def main() -> int:
    """Run the demo and return the exit status."""
    # SIGTERM has to pass through `finally` as Ctrl-C does, or servers would be left behind.
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="netloader-demo-") as folder:
        home = Path(folder)
        servers: list[Server] = []
        try:
            return _run(home, servers)
        except ServerError as error:
            print(f"\ndemo failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ndemo interrupted", file=sys.stderr)
            return 130
        finally:
            # A second Ctrl-C must not cut the clean-up short.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            stop_all(servers)


def _run(home: Path, servers: list[Server]) -> int:
    print(f"making a random model of about {_MODEL_MEGABYTES} MB ...", flush=True)
    model = make_llama(home / "model", seed=1, megabytes=_MODEL_MEGABYTES)
    reports = {}
    for name in ("A", "B"):
        server = Server(name, model, home, report=True)
        servers.append(server)
        print(f"\nserver {name}: {shlex.join(server.command)}", flush=True)
        started = time.monotonic()
        server.wait_ready()
        print(f"server {name} is ready after {time.monotonic() - started:.0f} s", flush=True)
        reports[name] = server.report()
        print(_told(server.log))

    print("\n$ mesh-inspect", flush=True)
    inspected = subprocess.run(
        ["mesh-inspect"], env=isolated_environment(home), timeout=30, check=False
    )
    outputs = {server.name: server.complete(_PROMPT) for server in servers}
    raw = measure(int(_number(reports["B"], "nbytes")))
    return _summarise(reports, outputs, inspected.returncode, raw)


def _summarise(
    reports: dict[str, dict[str, object]],
    outputs: dict[str, str],
    inspect_status: int,
    raw: RawGloo,
) -> int:
    print("\nsummary")
    for name, report in reports.items():
        sources = [delivery["endpoint"] for delivery in _deliveries(report)]
        origin = f"peers ({', '.join(sources)})" if sources else str(report["origin"])
        print(
            f"  server {name}: weights from {origin}: {_number(report, 'nbytes') / 1e6:.1f} MB "
            f"in {_number(report, 'seconds'):.2f} s = "
            f"{_number(report, 'gigabytes_per_second'):.2f} GB/s"
        )
    print(
        f"  raw Gloo here, same bytes, nothing verified: {raw.cold:.2f} GB/s into fresh memory, "
        f"{raw.warm:.2f} GB/s warm"
    )
    identical = outputs["A"] == outputs["B"]
    print(f"  temperature-0 output of A: {outputs['A']!r}")
    print(f"  temperature-0 output of B: {outputs['B']!r}")
    print(f"  outputs identical: {'yes' if identical else 'NO'}")
    sources_of_b = [delivery["endpoint"] for delivery in _deliveries(reports["B"])]
    from_a = sources_of_b == [reports["A"]["endpoint"]]
    checks = {
        "A loaded from storage": reports["A"]["origin"] == "storage",
        "B took its weights from A": reports["B"]["origin"] == "peers" and from_a,
        "outputs are identical and not empty": identical and bool(outputs["A"]),
        "mesh-inspect saw the mesh": inspect_status == 0,
    }
    for what, passed in checks.items():
        print(f"  {'ok  ' if passed else 'FAIL'} {what}")
    return 0 if all(checks.values()) else 1


def _deliveries(report: dict[str, object]) -> list[dict[str, object]]:
    deliveries = report["deliveries"]
    assert isinstance(deliveries, list)
    return deliveries


def _number(report: dict[str, object], key: str) -> float:
    value = report[key]
    assert isinstance(value, (int, float))
    return float(value)


def _told(log: Path) -> str:
    """What the loader and the mesh said in a server's log."""
    files = "dispatch|loader|membership|mesh|pull|serve|shell|sources|storage"
    ours = re.compile(rf"\(Worker.*\[({files})\.py:")
    lines = [line for line in log.read_text(errors="replace").splitlines() if ours.search(line)]
    return "\n".join(f"  | {line}" for line in lines)


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
