"""The settings tree: frozen, typed, and checked as a whole before anything starts.

`engine.settings.file` reads it; ``config/engine.toml`` documents every key. Nobody but `engine.commands` loads
settings: everybody else is handed the part that it needs.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field
from msgspec.structs import asdict

_HIDDEN = "(hidden)"


class RedisSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The server whose changes are captured.

    After loading, ``username`` and ``password`` hold what a file, the environment or the URL said, and ``url`` no
    longer holds a password. ``databases`` holds several or none: a single one is in the URL. Files are read again at
    each connection. No representation shows a password.
    """

    url: str = "redis://127.0.0.1:6379/0"
    databases: tuple[int, ...] | Literal["", "*"] = ""
    username: str = ""
    username_file: str = ""
    password: str = ""
    password_file: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""
    sentinel_password_file: str = ""
    iam: Literal["", "elasticache", "memorydb"] = ""
    iam_cache_name: str = ""
    iam_region: str = ""
    node_addresses: tuple[str, ...] = ()
    read_from: Literal["primary", "replica"] = "primary"
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_verify: bool = True
    tls_server_name: str = ""
    connect_timeout_ms: int = 3_000
    read_timeout_ms: int = 5_000
    set_notifications: bool = True

    def __rich_repr__(self) -> list[tuple[str, object]]:
        shown = asdict(self)
        for name in ("password", "sentinel_password"):
            if shown[name]:
                shown[name] = _HIDDEN
        if "@" in self.url:
            shown["url"] = _HIDDEN
        return list(shown.items())

    def __repr__(self) -> str:
        return f"RedisSettings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class CaptureSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Subscribers: where changes come from, how the keyspace is divided, and how much one of them may hold."""

    source: Literal["keyspace", "stream", "scan"] = "keyspace"
    streams: tuple[str, ...] = ()
    consumer_group: str = "engine"
    key_field: str = ""
    event_field: str = "event"
    fields: tuple[str, ...] = ()
    read_entries_max: int = 1_000
    unsettled_entries_max: int = 1_000_000
    claim_idle_ms: int = 60_000
    after_ack: Literal["keep", "delete", "trim"] = "keep"
    shards: int | Literal["auto"] = 2
    slice: str = "0/1"
    topology_interval_ms: int = 10_000
    sample_keys_max: int = 1_000
    dirty_keys_max: int = 500_000
    read_bytes_max: int = 1_048_576
    key_bytes_max: int = 1_572_864
    uncoalesced_events_max: int = 100
    scan_period_s_max: float = 300.0
    repair_keys_per_s_max: int = 20_000
    repair_by_idle_time: bool = True
    deletions_found_share_max: float = 0.25


class RingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The shared memory between each subscriber and each invoker."""

    ring_bytes: int = 8_388_608
    frame_bytes_max: int = 2_097_152
    frame_events_max: int = 256


class DeliverySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Invokers: how values are read and invocations are made."""

    invokers: int = 1
    gather_ms: float = 1.75
    fetch_keys_max: int = 500
    payload_bytes_max: int = 6_000_000
    connect_timeout_ms: int = 3_000
    invoke_timeout_ms: int = 60_000
    deadline_ms: int = 10_000
    deadline_margin_ms: int = 4_000
    retry_backoff_ms_min: int = 50
    retry_backoff_ms_max: int = 30_000
    set_aside_attempts: int = 5
    set_aside_backoff_ms_max: int = 600_000
    retrying_keys_max: int = 20_000
    waiting_keys_max: int = 200_000
    backlog_folder: str = ""
    backlog_bytes_max: int = 10_737_418_240
    dead_letter_file: str = ""
    dead_letter_bytes_max: int = 1_073_741_824
    digest_bytes_max: int = 67_108_864


class AwsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the functions are; credentials come by AWS's own chain, never from here."""

    region: str = ""
    lambda_endpoint_url: str = ""


class SupervisionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The supervisor's patience."""

    ready_timeout_s: float = 20.0
    heartbeat_timeout_s: float = 15.0
    restart_backoff_ms_min: int = 100
    restart_backoff_ms_max: int = 10_000
    drain_timeout_s: float = 30.0
    reload_on_change: bool = False
    state_folder: str = ""
    status_file: str = ""
    checkpoint_file: str = ""
    checkpoint_interval_ms: int = 1_000


class ConsoleSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The process that shows the engine over HTTP; none if ``listen`` is ""."""

    listen: str = ""
    token_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    connections_max: int = 64
    request_timeout_s: float = 10.0


class OtlpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Metrics and traces for a receiver of OTLP/HTTP, sent by the console's process; 0 switches either off."""

    endpoint: str = ""
    metrics_interval_s: float = 0.0
    traced_changes_per_million: int = 0

    @property
    def is_on(self) -> bool:
        """Tell whether anything is sent."""
        return self.metrics_interval_s > 0 or self.traced_changes_per_million > 0


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What the engine reports about itself, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    keys: bool = False
    function_errors: bool = False
    repeats_max: int = 10
    repeats_interval_s: float = 10.0


class OriginalSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The 2020 original's setup, as it was: its file, its mapping hashes, its supported commands."""

    function_cfg_file: str = ""
    mapping_prefix: str = ""
    supported_commands: tuple[str, ...] = ("hset",)


class RouteSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Keys and events that go to one function; options mean what they mean in AWS event source mappings."""

    name: str
    function: str
    keys: tuple[str, ...] = ("*",)
    databases: tuple[int, ...] = ()
    events: tuple[str, ...] = ("hset",)
    payload: Literal["batch", "original"] = "batch"
    include_expiry: bool = False
    batch_size: int = 500
    maximum_batching_window_in_seconds: float = 0.0
    parallelization_factor: int = 2
    maximum_retry_attempts: int = -1
    maximum_record_age_in_seconds: int = -1
    bisect_batch_on_function_error: bool = False
    function_response_types: tuple[str, ...] = ("ReportBatchItemFailures",)
    on_failure: str = ""
    starting_position: Literal["LATEST", "TRIM_HORIZON"] = "LATEST"
    coalesce: bool = True
    skip_unchanged: bool = False
    destination: str = ""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything, after file, environment and flags."""

    redis: RedisSettings = field(default_factory=RedisSettings)
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    ring: RingSettings = field(default_factory=RingSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    aws: AwsSettings = field(default_factory=AwsSettings)
    supervision: SupervisionSettings = field(default_factory=SupervisionSettings)
    console: ConsoleSettings = field(default_factory=ConsoleSettings)
    otlp: OtlpSettings = field(default_factory=OtlpSettings)
    log: LogSettings = field(default_factory=LogSettings)
    original: OriginalSettings = field(default_factory=OriginalSettings)
    routes: tuple[RouteSettings, ...] = ()
