"""The cluster that TF_CONFIG names, if any: its workers, and which of them this process is.

TF_CONFIG is JSON, `{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}`
(tensorflow/python/distribute/cluster_resolver/tfconfig_cluster_resolver.py). How its workers train: see `workers.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tasks.errors import PipelineError, UsageError

_REMEDY = 'write it as {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}, or unset it.'


@dataclass(frozen=True)
class Cluster:
    """Workers by address, and this process's place among them; the first is the chief.

    `text` is TF_CONFIG as it was, `seconds` how long a worker waits until all have come.
    """

    workers: tuple[str, ...] = ()
    index: int = 0
    text: str = ""
    seconds: float = 300.0

    @property
    def several(self) -> bool:
        """Whether there is more than one worker."""
        return len(self.workers) > 1

    def __str__(self) -> str:
        return f"worker {self.index} of {len(self.workers)}"


def read(text: str, seconds: float = Cluster.seconds) -> Cluster:
    """What a TF_CONFIG says.

    Raises:
        UsageError: it is malformed, or has roles that are not trained here.
    """
    if not text.strip():
        return Cluster()
    try:
        config = json.loads(text)
        if not config.get("cluster"):
            return Cluster(text=text)
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
    return Cluster(workers, place, text, seconds)


def require_alone(cluster: Cluster, what: str) -> None:
    """Raise UsageError where there are several workers: `tf.distribute` trains eager objects on them, and nothing else."""
    if cluster.several:
        remedy = "build live objects, a Keras model or a tf.Module, or unset TF_CONFIG and train on one worker."
        raise UsageError("TF_CONFIG", f"one worker for {what}", f"{len(cluster.workers)} workers", remedy)


def missing(cluster: Cluster) -> PipelineError:
    """What to say where not all workers came in time."""
    return PipelineError(
        str(cluster),
        f"all of {', '.join(cluster.workers)} within {cluster.seconds:g} s",
        "not all of them",
        "start the same command on every worker, each with its own TF_CONFIG; where the chief says `cached`, there is "
        "nothing to train. `limits.cluster_seconds` waits longer.",
    )


def _addresses(job: object) -> tuple[str, ...]:
    if not isinstance(job, list) or not all(isinstance(address, str) and ":" in address for address in job):
        raise ValueError(f"addresses {job!r}"[:200])
    return tuple(job)
