"""What the server counts, in Prometheus' form."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

PREFIX = "paddle_cvt"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One server's figures, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter(f"{PREFIX}_requests", "Requests by route and status", ("route", "status"), registry=own)
        self.request_seconds = Histogram(
            f"{PREFIX}_request_seconds", "Seconds from a request's head to its answer", ("route", "status"),
            registry=own, buckets=SECONDS,
        )  # fmt: skip
        self.images = Counter(f"{PREFIX}_images", "Images that were computed", registry=own)
        self.batch_images = Histogram(f"{PREFIX}_batch_images", "Images of a batch", registry=own, buckets=IMAGES)
        self.batch_seconds = Histogram(f"{PREFIX}_batch_seconds", "Seconds of a batch", registry=own, buckets=SECONDS)
        self.held = Gauge(f"{PREFIX}_held_images", "Images that are accepted and not answered yet", registry=own)
        self.deaths = Counter(f"{PREFIX}_engine_deaths", "Engines that ended, or failed on a batch", registry=own)

    def text(self) -> tuple[bytes, str]:
        """Returns all figures, and their Content-Type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
