"""Figures of a server in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters of one server; two servers in a process do not share any."""

    def __init__(self, waiting: Callable[[], float], slots: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self.requests = Counter(
            "ezxmc_requests", "Requests that were answered", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "ezxmc_request_seconds",
            "From the headers to the answer",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.texts = Counter("ezxmc_texts", "Texts that were tagged", registry=self._registry)
        self.batch_texts = Histogram(
            "ezxmc_batch_texts", "Texts that were tagged together", buckets=TEXTS, registry=self._registry
        )
        for name, about, value in (
            ("ezxmc_waiting_texts", "Texts that no replica has yet", waiting),
            ("ezxmc_slots", "Batches that the replicas take at once; 0: none is ready", slots),
        ):
            Gauge(name, about, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
