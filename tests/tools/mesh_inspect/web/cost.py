"""What the server of the live map costs for a mesh of thousands.

    python -m tests.tools.mesh_inspect.web.cost [MEMBERS [TRANSFERS [SECONDS]]]

Prints one line of JSON: when the first document was there, its bytes plain and compressed, and how
much of a core the server takes while one browser watches, and while none does.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import zlib
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from tests.tools.mesh_inspect.moving import MESH

ROOT = Path(__file__).parents[4]
GRACE_S = 12.0
"""After the last question the server looks for ten seconds more."""


def main(members: str = "2000", transfers: str = "50", seconds: str = "10") -> None:
    run = [sys.executable, "-m"]
    crowd = subprocess.Popen(
        [*run, "tests.tools.mesh_inspect.moving", MESH, members, transfers],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert crowd.stdout is not None and crowd.stdin is not None
    seed = crowd.stdout.readline().strip()
    server = subprocess.Popen(
        [*run, "mesh_inspect", "web", "--port", "0", "--mesh", MESH, "--seed", seed],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        port = urlsplit(server.stdout.readline().split()[-1]).port
        print(json.dumps(_measured(server.pid, port, float(seconds))))
    finally:
        server.terminate()
        server.wait()
        crowd.stdin.close()
        crowd.wait()


def _measured(pid: int, port: int | None, seconds: float) -> dict[str, float]:
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
        client.request("GET", "/api/mesh")
        plain = len(client.getresponse().read())
        began = time.monotonic()
        client.request("GET", "/api/events", headers={"Accept-Encoding": "gzip"})
        stream = client.getresponse()
        unpacker, text, packed = zlib.decompressobj(16 + zlib.MAX_WBITS), b"", 0
        while text.count(b"\n\n") < 2:
            part = stream.read1(1 << 16)
            packed += len(part)
            text += unpacker.decompress(part)
        first_s = time.monotonic() - began
        began, used = time.monotonic(), _cpu_s(pid)
        while (took_s := time.monotonic() - began) < seconds:
            assert stream.read1(1 << 16)
        watched = (_cpu_s(pid) - used) / took_s
        stream.close()
    time.sleep(GRACE_S)
    began, used = time.monotonic(), _cpu_s(pid)
    time.sleep(seconds / 2)
    alone = (_cpu_s(pid) - used) / (time.monotonic() - began)
    return {
        "first_document_s": round(first_s, 3),
        "bytes": plain,
        "compressed_bytes": packed,
        "core_while_watched": round(watched, 3),
        "core_while_alone": round(alone, 4),
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(*sys.argv[1:])
