"""How many requests a second does `ezxmc serve` answer, how fast, and does it lose any?

    python benchmarks/serve.py --bundle EXPORT --data data/debian-packages

Requests of 1, 8 and 64 texts by 16 and 64 clients that ask one request after the other over kept connections. Servers:
`ezxmc serve` with --replicas replicas on Ray Serve; the same with --in-process; and plain FastAPI on uvicorn with the
same encoder and index (serve_bench/plain.py), each alone on the machine but for the clients, which share its cores.
Then `ezxmc serve` again while another export is put in place of the one it serves, and while one of its replicas is
killed with -9. A request is lost if it is not answered with 200 and a result for each of its texts; nobody asks twice.
Every cell takes --share of the 10,000 requests of the whole plan: many of one text, few of 64. Memory: the proportional
set size of the server's processes, Ray's own included, after the last request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from common.arguments import choice
from common.data import read_rows
from common.processes import alive, family, named, wait_for
from common.publish import RESULTS, ROOT, publish
from ezxmc_ray.cluster.ray_start import free_ports
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.bundle import BUNDLE
from serve_bench.clients import LOST_S, Load, measured

CLIENTS = (16, 64)
#: Texts of a request, and how many requests of a cell have so many; at least one a client.
REQUESTS = {1: 3800, 8: 120, 64: 16}
#: Requests of one text while an export is replaced, and while a replica is killed.
DURING = 1040
#: What starts a server, but for the words that say where.
SERVERS = {
    "ezxmc": ["-m", "ezxmc_ray.cli", "serve"],
    "ezxmc --in-process": ["-m", "ezxmc_ray.cli", "serve", "--in-process"],
    "plain FastAPI": [str(ROOT / "benchmarks/serve_bench/plain.py")],
}
READY_S = 180
K = 5


def main() -> None:
    """Measure all servers and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="serve", help="of the result file")
    parser.add_argument("--bundle", required=True, help="directory that ezxmc export wrote")
    parser.add_argument("--data", type=Path, required=True, help="directory with documents.jsonl.gz")
    parser.add_argument("--servers", type=choice(SERVERS), default=list(SERVERS), help="some of them, by commas")
    parser.add_argument("--characters", type=int, default=40, help="of a text")
    parser.add_argument("--replicas", type=int, default=2, help="of ezxmc on Ray Serve")
    parser.add_argument("--add", action="store_true", help="keep the rows that the file has of other servers")
    parser.add_argument("--share", type=float, default=1.0, help="of the requests of the whole plan")
    given = parser.parse_args()
    rows = read_rows(given.data / "documents.jsonl.gz", ("title", "text"))
    texts = [f"{row['title']}. {row['text']}"[: given.characters] for row in rows]
    found = kept_rows(given.name, given.servers) if given.add else []
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "bundle")
        shutil.copytree(given.bundle, bundle)
        for name in given.servers:
            found += of_server(name, bundle, texts, given.replicas, given.share)
    ours = [row for row in found if row["server"] == "ezxmc"]
    publish(
        given.name,
        "Serving: requests and documents a second, and none lost",
        {
            "rows": found,
            "requests": sum(row["requests"] for row in ours),
            "lost": sum(row["lost"] for row in ours),
            "notes": [
                f"{len(texts):,} different texts of {given.characters} characters at most, {K} labels each; ezxmc has "
                f"{given.replicas} replicas of one core.",
                "load: of the machine in the minute before a row was done, its clients included. What else ran there "
                "took cores from all servers, but not the same from each.",
                "A forward pass takes one core: ezxmc in process makes one at a time, its replicas one each, the plain "
                "server one a thread of its pool, and each of one request's texts only.",
            ],
        },
    )


def kept_rows(name: str, servers: list[str]) -> list[dict[str, Any]]:
    """The rows that the result file has of other servers than these."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return [row for row in rows if row["server"] not in servers]


def of_server(name: str, bundle: Path, texts: list[str], replicas: int, share: float) -> list[dict[str, Any]]:
    """The rows of one server."""
    rows = []
    with server(name, bundle, replicas) as (port, process):
        load = Load(port, texts, K)
        measured(load, 4, 1, 8)  # not counted
        for clients in CLIENTS:
            for size, requests in REQUESTS.items():
                count = max(clients, round(requests * share))
                rows.append(
                    {"server": name, "during": "", **measured(load, clients, size, count), "load": minute_load()}
                )
                print(rows[-1], flush=True)
        if name == "ezxmc":
            count = max(64, round(DURING * share))
            for what, happens in (("another export", replace_export), ("kill -9", kill_replica)):
                thread = threading.Thread(target=happens, args=(load, count, bundle, process.pid))
                load.answered = []
                thread.start()
                row = measured(load, 16, 1, count)
                rows.append({"server": name, "during": what, **row, "load": minute_load()})
                thread.join()
                print(rows[-1], flush=True)
        memory = sum(one.memory_full_info().pss for one in [psutil.Process(process.pid), *family(process.pid)])
    return [{**row, "memory_mb": round(memory / 1e6)} for row in rows]


def minute_load() -> float:
    """Of the machine."""
    return round(os.getloadavg()[0], 1)


@contextmanager
def server(name: str, bundle: Path, replicas: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server that is ready: its port and its process."""
    [port] = free_ports(1)
    words = [sys.executable, *SERVERS[name], str(bundle), "--port", str(port)]
    if name == "ezxmc":
        words += ["--replicas", str(replicas), "--replica-cpus", "1", "cluster.address=local"]
    if name.startswith("ezxmc"):
        words += ["--timeout-s", str(LOST_S)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["OMP_NUM_THREADS"] = "1"
    process = subprocess.Popen(words, env=environment)
    try:
        wait_for(lambda: process.poll() is not None or asyncio.run(Load(port, [], K).is_ready()), READY_S)
        if process.poll() is not None:
            raise SystemExit(f"{name} ended with status {process.returncode}")
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise SystemExit(f"{name} did not end at SIGTERM") from None
    if name.startswith("ezxmc") and status:
        raise SystemExit(f"{name} ended with status {status}")


def replace_export(load: Load, count: int, bundle: Path, pid: int) -> None:
    """When a tenth of the requests are answered, put a copy of the export in its place, as ezxmc export does.

    The old files go at once, as they do there: replicas have them mapped.
    """
    wait_for(lambda: len(load.answered) > count // 10, READY_S)
    storage = Storage(str(bundle))
    told = storage.read_note(BUNDLE)
    old, new = bundle / told["folder"], "files-second"
    shutil.copytree(old, bundle / new)
    storage.write_note(BUNDLE, {**told, "folder": new})
    shutil.rmtree(old)


def kill_replica(load: Load, count: int, bundle: Path, pid: int) -> None:
    """When a tenth of the requests are answered, kill a replica with -9."""
    wait_for(lambda: len(load.answered) > count // 10, READY_S)
    replica = named(family(pid), "ServeReplica")[0]
    replica.kill()
    wait_for(lambda: not alive(replica), 30)


if __name__ == "__main__":
    main()
