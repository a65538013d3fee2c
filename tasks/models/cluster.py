"""The cluster that TF_CONFIG names, if any: its workers, and which of them this process is.

TF_CONFIG is JSON, `{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}`
(tensorflow/python/distribute/cluster_resolver/tfconfig_cluster_resolver.py).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from tasks.errors import UsageError

_REMEDY = 'write it as {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}, or unset it.'


@dataclass(frozen=True)
class Cluster:
    """Workers by address, and this process's place among them; the first is the chief."""

    workers: tuple[str, ...] = ()
    index: int = 0

    @property
    def several(self) -> bool:
        """Whether there is more than one worker."""
        return len(self.workers) > 1


def read() -> Cluster:
    """What TF_CONFIG says, in the process that TensorFlow reads it in.

    Raises:
        UsageError: it is malformed, or has roles that are not trained here.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return Cluster()
    try:
        config = json.loads(text)
        if not config.get("cluster"):
            return Cluster()
        jobs, task = config["cluster"], config.get("task", {})
        if unknown := sorted(set(jobs) - {"worker", "chief", "evaluator"}):
            raise UsageError("TF_CONFIG", "workers and a chief", f"{', '.join(unknown)}", "train without them.")
        workers = (*_addresses(jobs.get("chief", [])), *_addresses(jobs.get("worker", [])))
        kind, index = task.get("type", "worker"), task.get("index", 0)
        if kind not in ("worker", "chief") or type(index) is not int:
            raise ValueError(f"a task of type {kind!r} and index {index!r}")
        place = index + (len(jobs.get("chief", [])) if kind == "worker" else 0)
        if not 0 <= place < len(workers):
            raise ValueError(f"{kind} {index} of {len(workers)} workers")
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UsageError("TF_CONFIG", "a cluster and this process's task in it", str(error)[:200], _REMEDY) from None
    return Cluster(workers, place)


def require_alone(cluster: Cluster) -> None:
    """Raise UsageError where TF_CONFIG names several workers: nothing here averages their gradients."""
    if cluster.several:
        raise UsageError(
            "TF_CONFIG",
            "one worker",
            f"{len(cluster.workers)} workers, this one number {cluster.index}",
            "unset TF_CONFIG and train on one worker; each would train a model of its own.",
        )


def _addresses(job: object) -> tuple[str, ...]:
    if not isinstance(job, list) or not all(isinstance(address, str) and ":" in address for address in job):
        raise ValueError(f"addresses {job!r}"[:200])
    return tuple(job)
