"""What a server is told: where it listens, its replicas, and what one request may take. No part of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ezxmc_ray.errors import UserError

TOKEN = "EZXMC_SERVE_TOKEN"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServeSettings:
    """The knobs of ``ezxmc serve``.

    Where: ``host``, ``port`` (0: any that is free), ``token`` (None: whoever reaches the server may tag).
    Replicas: ``replicas``; ``replica_cpus`` of each (0: as many as all can have, where each is on one node of the
    cluster), ``replica_gpus``; ``max_batch_size``: texts that one encodes together; ``batch_wait_ms``: for how long a
    text waits for others while a replica is free; ``reload_s``: seconds between two looks for a new export.
    Of a request: ``max_body_bytes``, ``max_texts``, ``max_characters`` of all its titles and texts, ``max_k``,
    ``max_labels`` of its answer (texts times k), and of ``among``; ``max_pairs`` that a cross-encoder reads for it,
    where one ranks; ``body_s``: within which its body is there, ``timeout_s``: within which it is answered.
    Of all: ``max_waiting_texts``; ``max_held_bytes`` of bodies that came and are not answered; ``max_connections``,
    beyond which the one is closed that has waited longest for its client; ``header_s``: within which a client says what
    it wants; ``drain_s``: for how long new requests are still answered after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    replicas: int = 1
    replica_cpus: int = 0
    replica_gpus: float = 0
    max_batch_size: int = 64
    batch_wait_ms: float = 0
    reload_s: float = 5
    max_body_bytes: int = 4 << 20
    max_texts: int = 1024
    max_characters: int = 2_000_000
    max_k: int = 1000
    max_labels: int = 100_000
    max_pairs: int = 3000  # which take about a minute on one core
    body_s: float = 20
    timeout_s: float = 60
    max_waiting_texts: int = 8192
    max_held_bytes: int = 256 << 20
    max_connections: int = 1024
    header_s: float = 10
    drain_s: float = 1

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.host in LOOPBACK

    def check(self) -> None:
        """Errors: UserError for a value that makes no sense."""
        bounds = ("max_batch_size", "max_body_bytes", "max_texts", "max_characters", "max_pairs", "timeout_s")
        for name in ("replicas", *bounds):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} makes no sense: give 1 or more.")
        for name in ("replica_cpus", "replica_gpus", "batch_wait_ms", "drain_s"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} makes no sense: give 0 or more.")
        if not self.reload_s > 0:
            raise UserError(f"--reload-s {self.reload_s} makes no sense: give more than 0.")
        if not 0 <= self.port < 65536:
            raise UserError(f"--port {self.port} is no port: give one from 1 to 65535, or 0 for any that is free.")


def token_of_environment() -> str | None:
    """The bearer token that clients must give. Errors: UserError for one that no client can give."""
    token = os.environ.get(TOKEN)
    if token is None:
        return None
    if not token.isascii() or not token.isprintable() or not token.strip() or " " in token:
        raise UserError(f"{TOKEN} is empty, or has characters that no HTTP header carries: set another, or unset it.")
    return token
