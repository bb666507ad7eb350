"""Every setting of a worker, with unit, default, bounds and reason."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)

from netloader.config.values import (
    MAX_PORT,
    MIN_PORT,
    Integer,
    NonEmpty,
    RankSources,
    from_json,
    lower,
    names,
)
from netloader.identity.identity import Evidence
from netloader.program import PROGRAM
from netloader.replica.settings import PullSettings
from netloader.source.settings import SourceSettings
from netloader.terms import KeepMode, UpstreamUse
from netloader.weights.manifest import CHUNK_BYTES
from netmesh import MeshSettings

MIN_RATE_LIMIT = 1_000_000
"""Bytes per second. Below this rate, turns of many sessions lie further apart than
`TRANSFER_TIMEOUT` allows: see `throttle.py`."""

MIN_CHUNK_BYTES, MAX_CHUNK_BYTES, CHUNK_STEP = 1 << 20, 64 << 20, 4096
"""Smaller chunks cost more in messages than in bytes; larger ones hold too much staging memory and
leave too much to fetch again. Chunks are a multiple of the page, so that pieces of a tensor begin
on a page."""


class WorkerSettings(BaseModel):
    """What the operator has set for one worker. An alias is the operator's key; no operator may use
    one with a space, under which `Config.load` passes what it has taken apart."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    file_source: tuple[RankSources, ...] = Field(default=(), alias="CONFIG_FILE: SOURCE")
    """The `SOURCE` of `CONFIG_FILE`. Tried before every other."""
    source: tuple[RankSources, ...] = Field(default=(), alias="SOURCE")
    """Static sources, tried before the mesh: for each rank a list of `ip:port`. For a draft model,
    10000 is added to each port. Default: none."""
    model: NonEmpty | None = Field(default=None, alias="MODEL")
    """Name of the target model. Two workers with different names never share; if only one of them
    has a name, names do not count. Default: none."""
    listen_port: int | None = Field(default=None, alias="LISTEN_PORT", ge=MIN_PORT, le=MAX_PORT)
    """Base port of the listener, where replicas ask for weights. The rank is added, and 10000 for a
    draft model. Default: a free port."""
    listen_advertise: int | None = Field(default=None, alias="LISTEN_ADVERTISE", ge=1, le=MAX_PORT)
    """Port at which others reach the listener, where `LISTEN_PORT` is published under another one.
    The rank is added to both, and 10000 for a draft model. The host is that of `MESH_ADVERTISE`.
    Default: the same port."""
    int8_cache: Annotated[KeepMode | None, BeforeValidator(lower)] = Field(
        default=None, alias="INT8_CACHE"
    )
    """Where a source keeps the originals of tensors that post-processing rewrites: on the device
    (`hbm`), in host memory (`dram`) or nowhere (`no`). Default: `dram` on CPU, where vLLM repacks;
    else only small tensors beside a weight, such as scales, in host memory."""
    int8_cache_name: tuple[NonEmpty, ...] | None = Field(default=None, alias="INT8_CACHE_NAME")
    """Parts of tensor names that `INT8_CACHE` applies to. Default: every tensor."""
    output_prefix: NonEmpty | None = Field(default=None, alias="OUTPUT_PREFIX")
    """Each rank writes `IP:Port` of its listener to `{OUTPUT_PREFIX}{RANK}.txt`. Default: off."""

    upstream: Annotated[UpstreamUse, BeforeValidator(lower)] = Field(
        default=UpstreamUse.OFF, alias="UPSTREAM"
    )
    """Transfers with vLLM Ascend's own Netloader: `serve` its replicas, `pull` from its servers in
    `SOURCE`, `both`, or `off`. Off unless set, because they are neither authenticated nor
    verified."""
    upstream_insecure: bool = Field(default=False, alias="UPSTREAM_INSECURE")
    """Whether such transfers are allowed although this worker has a cluster key. They go around the
    key."""

    mesh: bool = Field(default=True, alias="MESH")
    """Whether to join the mesh. If off, only `SOURCE` and storage are used."""
    mesh_settings: MeshSettings = Field(
        default=MeshSettings(program=PROGRAM), alias="mesh settings"
    )
    """The keys of `netmesh.MESH_KEYS` (`MESH_NAME`, `MESH_SEEDS`, ...)."""

    discovery_timeout_s: float = Field(default=3.0, alias="DISCOVERY_TIMEOUT", ge=0, le=600)
    """Seconds to wait for the mesh to answer before a worker counts as alone. A live mesh answers
    within a round trip; this limit is for the case that all its contacts are dead."""
    pull_settings: PullSettings = Field(default=PullSettings(), alias="pull settings")
    """Settings of the replica's side: `TRANSFER_TIMEOUT`, `MAX_SOURCES`, `SOURCE_TIMEOUT`,
    `PEER_BUDGET`, `MIN_RATE`, `VERIFY`."""
    source_settings: SourceSettings = Field(default=SourceSettings(), alias="source settings")
    """Settings of the source's side: `TRANSFER_TIMEOUT`, `MAX_SESSIONS`, `FABRIC`."""
    wait_for_source_s: float = Field(default=300.0, alias="WAIT_FOR_SOURCE", ge=0, le=86_400)
    """Seconds to wait for a worker that reads the same weights from storage, before this worker
    reads them as well; 0: none. A hundred gigabytes take about as long by a fast disk. Without
    another worker that loads the same weights, there is no wait."""
    storage_loaders: Integer = Field(default=1, alias="STORAGE_LOADERS", ge=1, le=1024)
    """How many of the workers that start together read storage. Each takes its share of storage's
    rate from the others."""
    rate_limit: Integer | None = Field(default=None, alias="RATE_LIMIT", ge=MIN_RATE_LIMIT)
    """Bytes per second that this worker hands out, over all sessions and models. Set it where the
    model's own traffic (tensor parallelism, KV transfer) uses the same link: a host gives away up
    to this rate times its workers. With a limit, bytes leave in messages of up to 0.2 s of the
    rate, never in bursts. A message has 64 KiB to 4 MiB, less with more `MAX_SESSIONS`. Default: as
    many as the link takes."""
    transports: Annotated[
        tuple[Literal["hccl", "nccl", "tcp", "gloo", "tcp-sealed"], ...] | None,
        BeforeValidator(names),
        Field(min_length=1),
    ] = Field(default=None, alias="TRANSPORTS")
    """What may carry this worker's weights, best first. A replica takes the first that its source
    has too. Only `tcp-sealed` keeps weights from others on the network. Without `gloo`, no peer can
    end this process through that library. With `PORT_RANGE`, only `tcp` and `tcp-sealed` are
    offered, because the others open ports of their own. Default: all that this machine has."""
    chunk_bytes: Integer = Field(
        default=CHUNK_BYTES,
        alias="CHUNK_BYTES",
        ge=MIN_CHUNK_BYTES,
        le=MAX_CHUNK_BYTES,
        multiple_of=CHUNK_STEP,
    )
    """Bytes of a chunk, the unit that is asked for, sent and verified; 16..64 MiB are sensible. It
    must be the same on all peers: a source refuses another size with the reason `manifest`, and the
    replica's log says `chunk size`. Where tensors do not lie in memory as they travel, a source
    needs staging memory of two chunks a session."""
    digest: Literal["sample", "full"] = Field(default="sample", alias="IDENTITY")
    """How checkpoint files are read for comparison: `sample` reads some bytes of every tensor,
    `full` all bytes."""
    content: Annotated[
        str | None,
        StringConstraints(pattern=rf"^({'|'.join(Evidence)}):\S{{1,512}}$"),
    ] = Field(default=None, alias="CONTENT")
    """Content id that the target's weights must have, as a source prints it when it is ready
    (`sample:1f0c...`). For workers without weight files. Default: what the worker's own files
    hold."""
    storage_format: NonEmpty = Field(default="auto", alias="STORAGE_FORMAT")
    """`--load-format` to use when the weights come from storage."""
    storage_config: Annotated[dict[str, object], BeforeValidator(from_json)] = Field(
        default_factory=dict, alias="STORAGE_CONFIG"
    )
    """`--model-loader-extra-config` for that format; its keys may also stand beside ours. Default:
    none."""
    storage_options: dict[str, object] = Field(default_factory=dict, alias="storage options")
    """Keys of the extra config that belong to vLLM's loader for storage, not to us."""
    metrics_port: int | None = Field(default=None, alias="METRICS_PORT", ge=MIN_PORT, le=MAX_PORT)
    """Base port on which Prometheus can read this worker's metrics; the rank is added. Default:
    off."""
    metrics_host: NonEmpty = Field(default="127.0.0.1", alias="METRICS_HOST")
    """Address of that port. Anybody who reaches it can read the metrics."""
    report_prefix: NonEmpty | None = Field(default=None, alias="REPORT_PREFIX")
    """Each rank writes where its weights came from to `{REPORT_PREFIX}{RANK}.json`. Default:
    off."""
    report_tensors: bool = Field(default=False, alias="REPORT_TENSORS")
    """Whether the report lists the SHA-256 of every tensor (reads all weights once more)."""

    @field_validator("file_source", "source")
    @classmethod
    def _one_entry_per_rank(cls, value: tuple[RankSources, ...]) -> tuple[RankSources, ...]:
        ranks = [entry.device_id for entry in value]
        if len(set(ranks)) != len(ranks):
            raise ValueError("every device_id may appear once")
        return value

    @field_validator("transports")
    @classmethod
    def _each_transport_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len({*value}) != len(value):
            raise ValueError("every transport may appear once")
        return value

    @property
    def fabric(self) -> str:
        """The label that transfers go by; empty without `FABRIC`."""
        return self.source_settings.fabric or ""

    @property
    def has_key(self) -> bool:
        """Whether this worker has a cluster key."""
        return self.mesh_settings.key is not None or self.mesh_settings.key_file is not None

    @property
    def content_demanded(self) -> dict[Evidence, str]:
        """The content that `CONTENT` asks for; empty when it is not set."""
        if self.content is None:
            return {}
        kind, _, value = self.content.partition(":")
        return {Evidence(kind): value}

    @property
    def storage_extra_config(self) -> dict[str, object]:
        """`--model-loader-extra-config` for the loader that reads storage."""
        return self.storage_config | self.storage_options
