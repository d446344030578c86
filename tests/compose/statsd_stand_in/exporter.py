"""Does what prom/statsd-exporter does with counters, gauges and timers, for machines that cannot download it."""

import re
import socket
import sys
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry, Gauge, Summary, start_http_server

REGISTRY = CollectorRegistry()
SERIES: dict[tuple[str, tuple[str, ...]], Gauge | Summary] = {}
# a counter of the library would get a suffix that the exporter does not add
KINDS = {"c": Gauge, "g": Gauge, "ms": Summary}


def mapped(name: str, mappings: list[dict]) -> tuple[str, dict[str, str]] | None:
    """The series and its labels, None for what is dropped; a star matches one part of the name."""
    for rule in mappings:
        pattern = re.escape(rule["match"]).replace(r"\*", r"([^.]*)")
        if found := re.fullmatch(pattern, name):
            if rule.get("action") == "drop":
                return None

            def filled(text: object, found: re.Match[str] = found) -> str:
                return re.sub(r"\$(?:\{(\d+)\}|(\d+))", lambda m: found.group(int(m[1] or m[2])), str(text))

            return filled(rule["name"]), {key: filled(value) for key, value in rule.get("labels", {}).items()}
    return re.sub(r"[^a-zA-Z0-9_]", "_", name), {}


def take(line: str, mappings: list[dict]) -> None:
    name, _, rest = line.partition(":")
    value, kind, *_ = rest.split("|")
    target = mapped(name, mappings)
    if target is None:
        return
    series, labels = target
    key = (series, tuple(sorted(labels)))
    if key not in SERIES:
        SERIES[key] = KINDS[kind](series, name, labelnames=sorted(labels), registry=REGISTRY)
    found = SERIES[key].labels(**labels) if labels else SERIES[key]
    if kind == "c":
        found.inc(float(value))
    elif kind == "g":
        found.inc(float(value)) if value[0] in "+-" else found.set(float(value))
    else:
        found.observe(float(value) / 1000)


def address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`; without a host all of them."""
    host, _, port = text.rpartition(":")
    return host or "0.0.0.0", int(port)


def main() -> None:
    given = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    mappings = yaml.safe_load(Path(given["statsd.mapping-config"]).read_text())["mappings"]
    host, port = address(given.get("web.listen-address", ":9102"))
    start_http_server(port, addr=host, registry=REGISTRY)
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(address(given.get("statsd.listen-udp", ":9125")))
    while True:
        for line in listener.recv(65535).decode("utf-8", "replace").splitlines():
            try:
                take(line, mappings)
            except (ValueError, KeyError) as exc:
                print(f"not understood: {line!r}: {exc}", flush=True)


if __name__ == "__main__":
    main()
