"""One rank of a ProcessGroupHCCL that a test moves command by command."""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import PrefixStore, ReduceOp, TCPStore
from torch_npu._C._distributed_c10d import ProcessGroupHCCL

from tests.ascend.commands import arguments, serve


def pattern(count: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Elements that depend on the seed and are exact in every dtype."""
    return ((torch.arange(count, dtype=torch.int64) * 7 + seed * 13) % 61).to(dtype)


def sha256(tensor: torch.Tensor) -> str:
    """Of the bytes of a host tensor."""
    # numpy does not know every dtype.
    address, nbytes = tensor.data_ptr(), tensor.numel() * tensor.element_size()
    return hashlib.sha256(ctypes.string_at(address, nbytes) if nbytes else b"").hexdigest()


class Rank:
    """The commands. Tensors have names. An operation is finished after `wait`."""

    def __init__(self, port: int, rank: int, ranks: int, timeout_s: float) -> None:
        torch.npu.set_device(f"npu:{rank}")
        self.rank, self.ranks = rank, ranks
        self.tensors: dict[str, torch.Tensor] = {}
        self.pending: list[Any] = []
        timeout = timedelta(seconds=timeout_s)
        self.store = TCPStore("127.0.0.1", port, ranks, rank == 0, timeout=timeout)
        prefixed = PrefixStore("test/", self.store)
        self.group = ProcessGroupHCCL(prefixed, rank, ranks, timeout)

    def run(self, do: str, /, **arguments: Any) -> Any:
        return getattr(self, do)(**arguments)

    def fill(self, name: str, count: int, dtype: str, seed: int) -> None:
        self.tensors[name] = pattern(count, getattr(torch, dtype), seed).to(f"npu:{self.rank}")

    def put(self, name: str, values: list[float], dtype: str) -> None:
        made = torch.tensor(values, dtype=getattr(torch, dtype))
        self.tensors[name] = made.to(f"npu:{self.rank}")

    def send(self, name: str, to: int) -> None:
        self.pending.append(self.group.send([self.tensors[name]], to, 0))

    def receive(self, name: str, source: int) -> None:
        self.pending.append(self.group.recv([self.tensors[name]], source, 0))

    def wait(self) -> None:
        """Let the current stream wait for all operations, and this thread for the stream."""
        pending, self.pending = self.pending, []
        for work in pending:
            work.wait()
        torch.npu.current_stream().synchronize()

    def error_of_wait(self) -> str:
        """The text of the error that `wait` ends with; empty for none."""
        try:
            self.wait()
        except RuntimeError as error:
            return str(error) or "no text"
        return ""

    def timed_sends(self, name: str, to: int, times: int) -> float:
        """How long it takes to send a tensor so many times, in seconds."""
        started = time.monotonic()
        for _ in range(times):
            self.send(name, to)
        self.wait()
        return time.monotonic() - started

    def digest(self, name: str) -> str:
        return sha256(self.tensors[name].cpu())

    def differs_at(self, name: str, dtype: str, seed: int) -> list[int]:
        """Which bytes are not the pattern's."""
        tensor = self.tensors[name].cpu().view(torch.uint8)
        wanted = pattern(self.tensors[name].numel(), getattr(torch, dtype), seed).view(torch.uint8)
        return torch.nonzero(tensor != wanted).flatten().tolist()

    def values(self, name: str) -> list[float]:
        return self.tensors[name].cpu().double().tolist()

    def exchange(self, outgoing: str, incoming: str, peer: int) -> None:
        """A batch of a send and a receive."""
        tensors = [self.tensors[outgoing], self.tensors[incoming]]
        work = self.group.batch_isend_irecv(["isend", "irecv"], tensors, [peer, peer])
        self.pending.append(work)

    def all_reduce(self, name: str, how: str) -> None:
        options = torch.distributed.AllreduceOptions()
        options.reduceOp = getattr(ReduceOp, how)
        self.pending.append(self.group.allreduce([self.tensors[name]], options))

    def broadcast(self, name: str, root: int) -> None:
        options = torch.distributed.BroadcastOptions()
        options.rootRank = root
        self.pending.append(self.group.broadcast([self.tensors[name]], options))

    def all_gather(self, name: str, out: str) -> None:
        """`out` gets every rank's tensor, in the order of ranks."""
        whole = self.tensors[out] = self.tensors[name].repeat(self.ranks)
        work = ProcessGroupHCCL._allgather_base(self.group, whole, self.tensors[name])
        self.pending.append(work)

    def reduce_scatter(self, name: str, out: str) -> None:
        """`out` gets this rank's part of the sum."""
        part = self.tensors[out] = torch.empty_like(self.tensors[name].chunk(self.ranks)[0])
        work = ProcessGroupHCCL._reduce_scatter_base(self.group, part, self.tensors[name])
        self.pending.append(work)

    def free_memory(self) -> int:
        return torch.npu.mem_get_info()[0]

    def write_past_the_end(self) -> None:
        """Write like host code with a wrong length. The process does not survive it."""
        tensor = torch.empty(512, dtype=torch.uint8, device="npu")
        ctypes.memset(tensor.untyped_storage().data_ptr(), 0, 512 + 4096)

    def abort_group(self) -> None:
        self.group.abort_hccl_comm("test")

    def pid(self) -> int:
        return os.getpid()


def main() -> None:
    channel, given = arguments()
    serve(channel, Rank(**given).run)


if __name__ == "__main__":
    main()
