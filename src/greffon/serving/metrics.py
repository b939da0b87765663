"""What the service counts, in the Prometheus format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from greffon.serving.models import Served

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The numbers of one service; each has a registry of its own, so that several fit into one process.

    Example:
        >>> from greffon.serving.metrics import Metrics
        >>> "greffon_queue_pictures 0.0" in Metrics().text().decode()
        True
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter(
            "greffon_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "greffon_request_seconds",
            "From a request's head to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.refused = Counter("greffon_refused", "Requests refused, by reason", ["reason"], registry=registry)
        self.pictures = Counter("greffon_pictures", "Pictures by outcome", ["model", "outcome"], registry=registry)
        self.decode = Histogram("greffon_decode_seconds", "Decoding one picture", buckets=_SECONDS, registry=registry)
        self.engine = Histogram(
            "greffon_engine_seconds", "Computing one batch", ["model"], buckets=_SECONDS, registry=registry
        )
        self.batch = Histogram(
            "greffon_batch_pictures",
            "Pictures in one batch",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.queue = Gauge("greffon_queue_pictures", "Pictures that wait or are computed", registry=registry)
        self.in_flight = Gauge("greffon_requests_in_flight", "Requests being answered", registry=registry)
        self.reloads = Counter(
            "greffon_reloads", "New versions of a model, by outcome", ["model", "outcome"], registry=registry
        )
        self.info = Gauge(
            "greffon_model_info", "1 for the version that answers", ["model", "version"], registry=registry
        )

    def follow(self, served: Served) -> None:
        """Count a model's batches, and name its version as the one that answers."""
        name = served.model.name
        engine, batch = self.engine.labels(name), self.batch.labels(name)

        def done(pictures: int, seconds: float) -> None:
            engine.observe(seconds)
            batch.observe(pictures)

        served.batcher.done = done
        self.info.labels(name, served.model.version).set(1)

    def forget(self, served: Served) -> None:
        """A version that answers no more."""
        self.info.remove(served.model.name, served.model.version)

    def text(self) -> bytes:
        """All numbers, as Prometheus reads them."""
        return generate_latest(self.registry)
