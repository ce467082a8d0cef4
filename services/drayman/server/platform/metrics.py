"""Prometheus metrics, under the names that gRPC dashboards know."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)


class CallMetrics:
    """Counts and times of gRPC calls."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("grpc_service", "grpc_method")
        self._handled = Counter(
            "grpc_server_handled", "Calls answered, by code.", (*labels, "grpc_code"), registry=registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "How long calls took.", labels, buckets=_BUCKETS, registry=registry
        )
        self._running = Gauge("grpc_server_running", "Calls in progress.", labels, registry=registry)

    def observer(self, path: str) -> Callable[[grpc.StatusCode, float], None]:
        """Return the function that records one finished call of this method."""
        _, service, method = path.split("/")
        seconds = self._seconds.labels(service, method)
        ok = self._handled.labels(service, method, "OK")

        def observe(code: grpc.StatusCode, elapsed: float) -> None:
            seconds.observe(elapsed)
            (ok if code is grpc.StatusCode.OK else self._handled.labels(service, method, code.name)).inc()

        return observe

    def running(self, path: str, count: Callable[[], int]) -> None:
        """Show how many calls of this method are in progress, as `count` says when somebody looks: a gauge's own counting costs more."""
        _, service, method = path.split("/")
        self._running.labels(service, method).set_function(count)


def serve_metrics(listen: str, registry: CollectorRegistry) -> Callable[[], None]:
    """Serve /metrics at HOST:PORT from a thread of its own; returns the function that stops it."""
    host, _, port = listen.rpartition(":")
    server, thread = start_http_server(int(port), host.strip("[]"), registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
