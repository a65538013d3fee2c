"""The cluster that TF_CONFIG describes.

TF_CONFIG is JSON, `{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}`
(tensorflow/python/distribute/cluster_resolver/tfconfig_cluster_resolver.py). The training itself: see `multi_worker.py`.
"""

from __future__ import annotations

import json

from tasks.errors import PipelineError, UsageError
from tasks.records.cluster import Cluster

_REMEDY = 'write it as {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}, or unset it.'


def read(text: str, seconds: float = Cluster.seconds) -> Cluster:
    """Read a TF_CONFIG.

    Raises:
        UsageError: it is malformed, or has roles that are not supported.
    """
    if not text.strip():
        return Cluster()
    try:
        config = json.loads(text)
        if not config.get("cluster"):
            return Cluster(text=text)
        jobs, task = config["cluster"], config.get("task", {})
        if unknown := sorted(set(jobs) - {"worker", "chief", "evaluator"}):
            raise UsageError("TF_CONFIG", "workers and a chief", ", ".join(unknown), "train without them.")
        workers = (*_addresses(jobs.get("chief", [])), *_addresses(jobs.get("worker", [])))
        kind, index = task.get("type", "worker"), task.get("index", 0)
        if kind not in ("worker", "chief") or type(index) is not int:
            raise ValueError(f"a task of type {kind!r} and index {index!r}")
        place = index + (len(jobs.get("chief", [])) if kind == "worker" else 0)
        if not 0 <= place < len(workers):
            raise ValueError(f"{kind} {index} of {len(workers)} workers")
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UsageError("TF_CONFIG", "a cluster and this process's task in it", str(error)[:200], _REMEDY) from None
    return Cluster(workers, place, text, seconds)


def require_alone(cluster: Cluster, what: str) -> None:
    """Raise UsageError if there are several workers: `tf.distribute` trains eager objects only."""
    if cluster.several:
        remedy = "build live objects, a Keras model or a tf.Module, or unset TF_CONFIG and train on one worker."
        raise UsageError("TF_CONFIG", f"one worker for {what}", f"{len(cluster.workers)} workers", remedy)


def missing(cluster: Cluster) -> PipelineError:
    """Return the error for workers that did not join in time."""
    return PipelineError(
        str(cluster),
        f"all of {', '.join(cluster.workers)} within {cluster.seconds:g} s",
        "not all of them",
        "start the same command on every worker, each with its own TF_CONFIG; if the chief reports `cached`, there is "
        "nothing to train. `limits.cluster_seconds` sets a longer wait.",
    )


def _addresses(job: object) -> tuple[str, ...]:
    if not isinstance(job, list) or not all(isinstance(address, str) and ":" in address for address in job):
        raise ValueError(f"addresses {job!r}"[:200])
    return tuple(job)
