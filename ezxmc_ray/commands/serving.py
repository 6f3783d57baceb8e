"""``ezxmc serve``: tags over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ezxmc_ray.commands.arguments import RunOrBundle
from ezxmc_ray.errors import UserError
from ezxmc_ray.serving.settings import ServeSettings, token_of_environment
from ezxmc_ray.shown import shown

if TYPE_CHECKING:
    from ezxmc_ray.serving.in_process import Backend

app = typer.Typer()
Knobs = Annotated[list[str] | None, typer.Argument(metavar="a.b=c", help="knobs of the run, such as predict.top_k=3")]
Host = Annotated[str, typer.Option(help="address to listen at; the default is reached from this machine only")]
Port = Annotated[int, typer.Option(help="port to listen at; 0: any that is free")]
Replicas = Annotated[int, typer.Option(help="processes that tag")]
ReplicaCpus = Annotated[int, typer.Option(help="CPUs of each; 0: as many as all can have alike, each on one node")]
ReplicaGpus = Annotated[float, typer.Option(help="GPUs of each")]
MaxBatchSize = Annotated[int, typer.Option(help="texts that a replica encodes together")]
BatchWait = Annotated[float, typer.Option(help="for how long a text waits for others while a replica is free")]
MaxBodyBytes = Annotated[int, typer.Option(help="bytes of a request")]
MaxTexts = Annotated[int, typer.Option(help="texts of a request")]
MaxCharacters = Annotated[int, typer.Option(help="characters of a request's texts")]
MaxPairs = Annotated[int, typer.Option(help="pairs that a cross-encoder reads for a request, where one ranks")]
Timeout = Annotated[float, typer.Option(help="seconds for a request")]
Reload = Annotated[float, typer.Option(help="seconds between two looks for a new export")]
Drain = Annotated[float, typer.Option(help="seconds after SIGTERM in which new requests are still answered")]
InProcess = Annotated[bool, typer.Option("--in-process", help="tag in this process: one replica, and no Ray")]


@app.command(help="Tag over HTTP: a page for people, POST /v1/tag for programs; replicas on Ray Serve.")
def serve(
    run: RunOrBundle,
    overrides: Knobs = None,
    host: Host = ServeSettings.host,
    port: Port = ServeSettings.port,
    replicas: Replicas = ServeSettings.replicas,
    replica_cpus: ReplicaCpus = ServeSettings.replica_cpus,
    replica_gpus: ReplicaGpus = ServeSettings.replica_gpus,
    max_batch_size: MaxBatchSize = ServeSettings.max_batch_size,
    batch_wait_ms: BatchWait = ServeSettings.batch_wait_ms,
    max_body_bytes: MaxBodyBytes = ServeSettings.max_body_bytes,
    max_texts: MaxTexts = ServeSettings.max_texts,
    max_characters: MaxCharacters = ServeSettings.max_characters,
    max_pairs: MaxPairs = ServeSettings.max_pairs,
    timeout_s: Timeout = ServeSettings.timeout_s,
    reload_s: Reload = ServeSettings.reload_s,
    drain_s: Drain = ServeSettings.drain_s,
    in_process: InProcess = False,
) -> None:
    """A server until SIGTERM or Ctrl-C. EZXMC_SERVE_TOKEN: the token that clients must give."""
    knobs = list(overrides or [])
    if strange := [word for word in knobs if "=" not in word]:
        raise UserError(f"{strange[0]!r} is not an override (a.b=c).")
    settings = _settings(
        host=host,
        port=port,
        replicas=replicas,
        replica_cpus=replica_cpus,
        replica_gpus=replica_gpus,
        max_batch_size=max_batch_size,
        batch_wait_ms=batch_wait_ms,
        max_body_bytes=max_body_bytes,
        max_texts=max_texts,
        max_characters=max_characters,
        max_pairs=max_pairs,
        timeout_s=timeout_s,
        reload_s=reload_s,
        drain_s=drain_s,
    )
    _serve(run, knobs, settings, in_process)


def _serve(run: str, knobs: list[str], settings: ServeSettings, in_process: bool) -> None:
    from ezxmc_ray.serving.app import create_app
    from ezxmc_ray.serving.server import listen, server_of

    with listen(settings) as listener:
        settings = replace(settings, port=listener.getsockname()[1])  # replicas are called by the one that is taken
        with _replicas(run, knobs, settings, in_process) as backend:
            place = f"[{settings.host}]" if ":" in settings.host else settings.host
            said = f"Serving {run} at http://{place}:{settings.port}/ (Ctrl-C or SIGTERM ends it in order)"
            if not (settings.is_loopback or settings.token):
                said += "\nWhoever reaches this address may tag: EZXMC_SERVE_TOKEN=… asks clients for a token."
            server = server_of(create_app(backend, settings), settings, lambda: print(shown(said), flush=True))
            server.run(sockets=[listener])


def _settings(**given: object) -> ServeSettings:
    """Errors: UserError for values that make no sense, and where the packages of a server are not there."""
    try:
        from ezxmc_ray.serving import server
    except ImportError as error:
        raise UserError(f"ezxmc serve needs {error.name}: pip install 'ezxmc-ray[serve]'.") from error
    del server
    settings = ServeSettings(**given, token=token_of_environment())  # type: ignore[arg-type]
    settings.check()
    return settings


@contextmanager
def _in_process(run: str, knobs: list[str], settings: ServeSettings) -> Iterator[Backend]:
    from ezxmc_ray.serving.in_process import InProcess
    from ezxmc_ray.serving.live import LiveTagger

    if settings.replicas != 1:
        raise UserError(f"--in-process is one replica, not {settings.replicas}: leave out one of both.")
    live = LiveTagger(run, knobs)
    live.follow(settings.reload_s)
    yield InProcess(live)


def _replicas(run: str, knobs: list[str], settings: ServeSettings, in_process: bool) -> AbstractContextManager[Backend]:
    if in_process:
        return _in_process(run, knobs, settings)
    from ezxmc_ray.checks import check_shared
    from ezxmc_ray.models import is_hub_id
    from ezxmc_ray.tagging.hub_bundle import fetch_bundle, with_commit
    from ezxmc_ray.tagging.tagger import open_settings

    is_here = not is_hub_id(run)
    fetched = run if is_here else fetch_bundle(run)  # by its branch, which the cache then knows where the hub is away
    where = run if is_here else with_commit(run, fetched)  # so that replicas have one bundle, whenever they start
    cluster = open_settings(fetched, knobs)[1].cluster  # refused before Ray is started
    if is_here:
        check_shared(cluster, "the run", run)
    try:
        from ezxmc_ray.serving.deployment import ray_replicas
    except ImportError as error:
        raise UserError(f"Ray Serve needs {error.name}: pip install 'ezxmc-ray[serve]', or --in-process.") from error
    return ray_replicas(where, knobs, settings, cluster)
