"""Replicas on Ray Serve, on this machine or a cluster: the front (app.py) gives them batches by a handle.

Comes in: where the export is, and :class:`ServeSettings`. Goes out: a :class:`Backend`. Ray Serve starts the replicas,
and anew those that die; a batch of one that died is given to another. Its own HTTP proxies are not started: they
have no limits for a request's size and time, and lose what a replica that dies was doing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import exceptions, serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from ezxmc_ray.cluster.pools import gpu_cpus
from ezxmc_ray.cluster.session import (
    check_wait,
    cluster_cpus,
    cluster_limit,
    gpus_there,
    machines,
    nodes_there,
    ray_cluster,
    waits_for,
)
from ezxmc_ray.config import ClusterConfig, cluster_address
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.hardware import ends_with_its_gpu
from ezxmc_ray.progress import StageProgress, doing, say
from ezxmc_ray.serving.contract import Answer, Refused, TagRequest
from ezxmc_ray.serving.live import LiveTagger, Patience, export_of
from ezxmc_ray.serving.settings import ServeSettings

#: What a batch ends with that another replica may do.
LOST = (exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.ObjectLostError, RayServeException)
#: Tries of a batch, and seconds between two; a replica takes some to start.
TRIES, AGAIN_S = 5, 0.2
#: Seconds that a replica without an export takes to say so: Serve gives more to one that answers at once.
WITHOUT_EXPORT_S = 1.0
#: Seconds that one with another export than is asked for takes, for the same reason.
OTHER_EXPORT_S = 0.1
#: Seconds between two looks at how many replicas there are.
LOOK_S = 1.0
#: Batches that a replica has: the one that it tags, and the next.
PER_REPLICA = 2


class Replica:
    """A tagger in an actor of Ray Serve."""

    def __init__(self, where: str, overrides: Sequence[str], reload_s: float, gpus: float) -> None:
        if not gpus:  # else it would take all that its node has: Ray hides none from an actor that asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._where, self._overrides, self._reload_s = where, overrides, reload_s
        self._mistake = ""
        self._live: LiveTagger | None = None
        self._turn = threading.Lock()
        if not self._load():
            threading.Thread(target=self._load_later, name="export", daemon=True).start()

    def _load(self) -> bool:
        try:
            live = LiveTagger(self._where, self._overrides)
        except UserError as error:  # told by a value: Serve would try again and again, and keep the sentence for itself
            self._mistake = str(error)
            return False
        except Exception as error:  # of files that are being replaced just now
            if self._mistake == "":
                raise
            self._mistake = one_line(error)
            return False
        live.follow(self._reload_s)
        self._live, self._mistake = live, ""
        return True

    def _load_later(self) -> None:
        """Of a replica that was started anew while its run is being made anew: until the next export is whole."""
        patience = Patience()
        patience.note(self._there())
        while True:
            time.sleep(self._reload_s)
            if patience.is_due(export := self._there()):
                if self._load():
                    return
                patience.note(export)

    def _there(self) -> str:
        """As export_of; empty too while it cannot be said."""
        try:
            return export_of(self._where)
        except Exception:  # of files that are being replaced just now
            return ""

    async def mistake(self) -> str:
        """Why it cannot tag; empty if it can."""
        return self._mistake

    async def failed(self) -> str:
        """Why it does not tag, or not with the newest export; empty if it does."""
        return self._live.failed if self._live else f"A replica waits for an export: {self._mistake}"

    async def tag(self, asked: TagRequest) -> Answer | None:
        """As LiveTagger.tag, one batch at a time; None: it cannot tag."""
        return await asyncio.to_thread(self._tag, asked)

    def _tag(self, asked: TagRequest) -> Answer | None:
        if self._live is None:
            time.sleep(WITHOUT_EXPORT_S)
            return None
        with self._turn, ends_with_its_gpu():  # Serve starts another replica
            answer = self._live.tag(asked)
        if asked.options.export not in (None, answer.export):
            time.sleep(OTHER_EXPORT_S)
        return answer

    async def pairs_of_text(self, among: int | None) -> int | None:
        """As LiveTagger.pairs_of_text; None: it cannot tag."""
        if self._live is None:
            await asyncio.sleep(WITHOUT_EXPORT_S)
            return None
        return self._live.pairs_of_text(among)

    async def find_labels(self, query: str, limit: int) -> dict[str, Any] | None:
        """As LiveTagger.find_labels; None: it cannot tag."""
        return await asyncio.to_thread(self._live.find_labels, query, limit) if self._live else None


class OnRayServe:
    """A :class:`Backend` whose replicas are Ray Serve's."""

    def __init__(self, handle: DeploymentHandle, name: str, replicas: int) -> None:
        self._handle, self._name, self._running = handle, name, replicas
        self._pairs = dict[int | None, asyncio.Future[int]]()
        self._ends = threading.Event()
        self._looks = threading.Thread(target=self._look, name="replicas", daemon=True)
        self._looks.start()

    @property
    def slots(self) -> int:
        """See :class:`Backend`."""
        return PER_REPLICA * self._running

    async def tag(self, asked: TagRequest) -> Answer:
        """See :class:`Backend`."""
        answer: Answer = await self._call("tag", asked)
        return answer

    async def pairs_of_text(self, among: int | None) -> int:
        """See :class:`Backend`; asked of a replica once between two looks, not before each request."""
        known = self._pairs
        if among not in known or _has_failed(known[among]):
            known[among] = asyncio.ensure_future(self._call("pairs_of_text", among))
        return await asyncio.shield(known[among])  # others may wait for it too

    async def find_labels(self, query: str, limit: int) -> dict[str, Any]:
        """See :class:`Backend`."""
        found: dict[str, Any] = await self._call("find_labels", query, limit)
        return found

    async def _call(self, method: str, *arguments: Any) -> Any:
        for number in range(1, TRIES + 1):
            try:
                answer = await getattr(self._handle, method).remote(*arguments)
            except LOST as error:
                say(f"A replica was lost ({one_line(error, 120)}); try {number} of {TRIES}")
                await asyncio.sleep(AGAIN_S * number)
                continue
            if answer is not None:
                return answer
            await asyncio.sleep(AGAIN_S * number)  # another replica may have one
        raise Refused(503, f"{TRIES} replicas were lost over this request, or have no whole export: try again later.")

    def _look(self) -> None:
        said = ""
        while not self._ends.wait(LOOK_S):
            self._pairs = {}  # of an export that may be another one by now
            try:
                application = serve.status().applications.get(self._name)
                told = application.deployments.values() if application else ()  # nothing runs of one that is gone
                self._running = sum(int(one.replica_states.get("RUNNING", 0)) for one in told)
                now = self._handle.failed.remote().result(timeout_s=LOOK_S) if self._running else ""
            except Exception:  # a cluster that is busy, or ends: what was last known counts
                continue
            if now and now != said:  # of another replica each time
                say(said := now)

    def close(self) -> None:
        """See :class:`Backend`."""
        self._ends.set()


def _has_failed(asked: asyncio.Future[Any]) -> bool:
    return asked.done() and (asked.cancelled() or asked.exception() is not None)


@contextmanager
def ray_replicas(
    where: str, overrides: Sequence[str], settings: ServeSettings, cluster: ClusterConfig
) -> Iterator[OnRayServe]:
    """Replicas that are ready; they end with the block. Errors: UserError for what cannot be loaded, or has no room."""
    name = application_name(settings)
    is_shared = ray.is_initialized() or cluster_address(cluster) != "local"
    with ray_cluster(cluster):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        application = _application(where, overrides, settings)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
        try:
            with StageProgress("Replicas", phase="starting"):
                handle = _started(application, name)
                mistake = handle.mistake.remote().result(timeout_s=settings.timeout_s)
            if mistake:
                raise UserError(mistake)
            backend = OnRayServe(handle, name, settings.replicas)
            try:
                yield backend
            finally:
                backend.close()
        finally:
            if is_shared:  # a Ray of its own ends with its replicas
                serve.delete(name)
                if not serve.status().applications:
                    serve.shutdown()


def application_name(settings: ServeSettings) -> str:
    """What the server's application is called on a cluster: by its machine and the port that it listens at, so that one
    that is started again after a kill takes over what it left, and none takes another's."""
    return f"ezxmc-{socket.gethostname()}-{settings.host}-{settings.port}".replace(":", "-")


def _started(application: Any, name: str) -> DeploymentHandle:
    """The handle of ``application`` when all its replicas run, which serve.run awaits without end.

    Errors: UserError where some had no room for ``cluster.wait_s``.
    """
    target = serve.RunTarget(application, name=name, route_prefix=None)
    handle: DeploymentHandle = serve.run_many([target], wait_for_applications_running=False)[0]
    since = time.monotonic()
    while (found := serve.status().applications[name]).status != "RUNNING":
        if found.status == "DEPLOY_FAILED":
            raise RuntimeError(f"Ray Serve could not start the replicas: {found.message}")
        waiting = waits_for()
        doing(waiting or "starting")
        since = since if waiting else time.monotonic()
        check_wait(time.monotonic() - since)
        time.sleep(LOOK_S)
    return handle


def _application(where: str, overrides: Sequence[str], settings: ServeSettings) -> Any:
    """Errors: UserError where the cluster will never have what the replicas need."""
    share = settings.replica_cpus or _most_cpus(settings.replicas, settings.replica_gpus)
    cpus = int(share) if share >= 1 else share
    _check_room(settings.replicas, cpus, settings.replica_gpus)
    deployment = serve.deployment(
        Replica,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": cpus, "num_gpus": settings.replica_gpus},
        max_ongoing_requests=100,  # the front gives each PER_REPLICA; labels are searched beside
        health_check_period_s=2,
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return deployment.bind(where, list(overrides), settings.reload_s, settings.replica_gpus)


def _most_cpus(replicas: int, gpus: float) -> float:
    """The most CPUs that each of ``replicas`` can have, so that all of them have room on the nodes that are there."""
    there = nodes_there()
    shares = {has.get("CPU", 0) / number for has in there for number in range(1, replicas + 1)}
    fitting = (cpus for cpus in sorted(shares - {0.0}, reverse=True) if _room(there, cpus, gpus) >= replicas)
    return next(fitting, max(1.0, gpu_cpus() * gpus))  # else some wait for nodes that come


def _room(nodes: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """How many replicas of so many CPUs and GPUs ``nodes`` have room for, none of them on two nodes."""
    wanted = {kind: each for kind, each in (("CPU", cpus), ("GPU", gpus)) if each}
    return sum(min(int(has.get(kind, 0) / each + 1e-9) for kind, each in wanted.items()) for has in nodes)


def _check_room(replicas: int, cpus: float, gpus: float) -> None:
    """Errors: UserError where ``replicas`` of so many CPUs and GPUs never have room on the cluster."""
    for resource, each, option in (("CPU", cpus, "--replica-cpus"), ("GPU", gpus, "--replica-gpus")):
        if replicas * each > (limit := cluster_limit(resource)) + 1e-9:
            raise UserError(
                f"{replicas} replicas of {each:g} {resource}s need {replicas * each:g}, and the cluster has {limit}: "
                f"give fewer --replicas, or less to each ({option})."
            )
    there, all_kinds = nodes_there(), machines()
    known = gpus if any(has.get("GPU", 0) for has in all_kinds) else 0  # else nobody knows what such a node will have
    room = _room(there, cpus, known)
    grows = cluster_limit("CPU") > cluster_cpus() or cluster_limit("GPU") > gpus_there()
    if room < replicas and not (grows and _room(all_kinds, cpus, known)):
        most = " and ".join(f"{max(has.get(kind, 0) for has in all_kinds):g} {kind}s" for kind in ("CPU", "GPU"))
        raise UserError(
            f"Of {replicas} replicas of {cpus:g} CPUs and {gpus:g} GPUs the cluster has room for {room}, since each is "
            f"on one node, and none has more than {most}: give fewer --replicas, or less to each (--replica-cpus, "
            "--replica-gpus)."
        )
