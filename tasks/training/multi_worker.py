"""Training on several workers, each in a child of its own, by `tf.distribute.MultiWorkerMirroredStrategy`.

Every worker takes its share of a batch's rows; gradients and values are exchanged. The first is the chief, whose model is
kept. The workers are those of TF_CONFIG (`cluster.py`).
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from tasks.errors import PipelineError, UsageError
from tasks.records.cluster import Cluster
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array

_CHUNK = 1 << 24  # bytes that go to the others at once


@contextmanager
def joined(cluster: Cluster) -> Iterator[Workers | None]:
    """Join the other workers until the block ends; yield None if there are none.

    If they do not join in time, the process ends by SIGALRM; see `cluster.missing`.

    Raises:
        PipelineError: the others cannot reach this worker, or another one ended early.
    """
    import tensorflow as tf

    if not cluster.several:
        yield None
        return
    # TensorFlow waits up to an hour with the GIL held: only a signal that ends the process can shorten that.
    signal.setitimer(signal.ITIMER_REAL, cluster.seconds)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        where = f"{cluster}, {cluster.workers[cluster.index]}"
        remedy = "check that the address is of this machine and its port free, and start every worker again."
        raise PipelineError(where, "to join the other workers", _sentence(error), remedy) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield Workers(cluster, strategy)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        remedy = "read the other workers' messages, then start every worker again: the chief resumes from its last checkpoint."
        raise PipelineError(str(cluster), "every worker to train to the end", _sentence(error), remedy) from None


class Workers:
    """This process among the workers of a cluster. All workers make the same calls in the same order."""

    def __init__(self, cluster: Cluster, strategy: Any) -> None:
        import tensorflow as tf

        self.cluster, self.strategy = cluster, strategy
        self._reduced = {how: tf.function(self._all_reduce(how)) for how in ("SUM", "MEAN")}

    def step(self, function: Callable[[Any], Mapping[str, Any]]) -> Callable[[Any], Mapping[str, float]]:
        """Return `function`, a training step, for this worker's share of a batch; it reports the mean over all workers.

        It is traced as one tf.function, together with those that it calls.
        """
        import tensorflow as tf

        def replica(batch: Any) -> Any:
            reported = {name: tf.identity(tf.cast(value, tf.float64)) for name, value in function(batch).items()}
            return tf.distribute.get_replica_context().all_reduce("MEAN", reported) if reported else reported

        def shared(batch: Any) -> Any:
            return self.strategy.run(replica, args=(batch,))

        def inlined(batch: Any) -> Any:
            tf.config.run_functions_eagerly(True)  # during this trace, so that inner functions become part of this one
            try:
                return shared(batch)
            finally:
                tf.config.run_functions_eagerly(False)

        traced = [tf.function(shared), tf.function(inlined)]

        def step(batch: Any) -> Mapping[str, float]:
            shares = self._shares(batch)
            try:
                reported = traced[0](shares)
            except RuntimeError as error:
                if len(traced) == 1 or "merge_call" not in str(error):
                    raise
                # Gradients cannot be exchanged from within a tf.function that the step calls.
                del traced[0]
                reported = traced[0](shares)
            return {name: float(self._local(value)) for name, value in reported.items()}

        return step

    def evaluation(self, function: Callable[[Any], Mapping[str, Any]]) -> Callable[[Any], Mapping[str, Any]]:
        """Return `function`, an evaluation, for the complete batch on every worker."""

        def evaluate(batch: Any) -> Mapping[str, Any]:
            reported = self.strategy.run(function, args=(batch,))
            return {name: self._local(value) for name, value in reported.items()}

        return evaluate

    def require_same(self, identity: str) -> None:
        """Raise UsageError if another worker has another `identity`."""
        digests = self._gathered(hashlib.sha256(identity.encode()).digest())
        others = [str(index) for index, digest in enumerate(digests) if digest != digests[0]]
        if others:
            found = f"others on worker {', '.join(others)} than on the chief"
            remedy = "start the same command on every worker, with the same files and versions."
            raise UsageError(str(self.cluster), "the same model, data and settings", found, remedy)

    def require_mirrored(self, variables: Mapping[str, Any]) -> None:
        """Raise PipelineError for variables that are read from all workers together: a saved model must stand alone."""
        import tensorflow as tf

        for name, variable in variables.items():
            if variable.synchronization is tf.VariableSynchronization.ON_READ:
                remedy = "leave `synchronization` out; statistics are averaged before every checkpoint."
                raise PipelineError("build()", "variables that every worker has a copy of", f"{name}, ON_READ", remedy)

    def settle(self, variables: Mapping[str, Any]) -> None:
        """Make the values the same on every worker: statistics, which each gathered from its own rows, are averaged.

        Raises:
            PipelineError: a trained variable has other values on another worker.
        """
        held = {name: tensor_file.as_array(variable.numpy()) for name, variable in variables.items()}
        facts = b"".join(bytes.fromhex(tensor_file.fact(name, array).sha256) for name, array in held.items())
        everywhere = self._gathered(facts)
        for place, (name, variable) in enumerate(variables.items()):
            if len({digests[32 * place : 32 * place + 32] for digests in everywhere}) == 1:
                continue
            if variable.trainable or not variable.dtype.is_floating:
                raise PipelineError(
                    f"train_step, variable {name}",
                    "the same values on every worker after it",
                    "values that differ",
                    "apply gradients by a Keras optimizer, or exchange them first: "
                    "tf.distribute.get_replica_context().all_reduce('MEAN', gradients); and let the workers be machines "
                    "of one kind.",
                )
            value = held[name].astype("float64")
            mean = self._exchanged("MEAN", partial(_of_first, value, value))
            variable.assign(mean.astype(held[name].dtype))

    def of_chief(self, own: bytes) -> bytes:
        """Return the chief's bytes; those of the others are ignored."""
        import numpy as np

        (size,) = self._exchanged("SUM", lambda index: np.array([0 if index else len(own)], np.int64))
        parts = []
        for start in range(0, int(size), _CHUNK):
            count = min(_CHUNK, int(size) - start)
            zeros = np.zeros(-(-count // 4), np.int32)
            words = np.frombuffer(own[start : start + count].ljust(zeros.nbytes, b"\0"), np.int32)[: zeros.size]
            sent = partial(_of_first, words, zeros)
            parts.append(self._exchanged("SUM", sent).tobytes()[:count])
        return b"".join(parts)

    def _gathered(self, own: bytes) -> list[bytes]:
        """Return the bytes of every worker, in their order; all have the same length."""
        import numpy as np

        replicas, count = self.strategy.num_replicas_in_sync, len(self.cluster.workers)

        def placed(index: int) -> Array:
            rows = np.zeros((replicas, len(own)), np.int32)
            rows[index] = np.frombuffer(own, np.uint8)
            return rows

        rows = self._exchanged("SUM", placed)[:: replicas // count]
        return [row.astype(np.uint8).tobytes() for row in rows]

    def _exchanged(self, how: str, value_of: Callable[[int], Array]) -> Array:
        """Return the sum or mean of the values of all replicas, each by its number; the chief's first is 0."""
        import tensorflow as tf

        values = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(value_of(context.replica_id_in_sync_group))
        )
        return tensor_file.as_array(self._local(self._reduced[how](values)).numpy())

    def _all_reduce(self, how: str) -> Callable[[Any], Any]:
        import tensorflow as tf

        def replica(value: Any) -> Any:
            # The identity is on the replica's device, and so places the exchange there.
            return tf.distribute.get_replica_context().all_reduce(how, tf.identity(value))

        return lambda values: self.strategy.run(replica, args=(values,))

    def _shares(self, batch: Any) -> Any:
        """Return each local replica's rows of a batch, the same number for all, in the replicas' order; scalars go to all.

        Raises:
            PipelineError: the rows cannot be divided equally.
        """
        import tensorflow as tf

        arrays = [tensor_file.as_array(leaf) for leaf in tf.nest.flatten(batch)]
        rows, of = sorted({len(array) for array in arrays if array.ndim}), self.strategy.num_replicas_in_sync
        if len(rows) > 1 or any(count % of for count in rows):
            found = f"{' and '.join(map(str, rows))} rows"
            remedy = f"give every array of a batch the same number of rows, a multiple of {of}."
            raise PipelineError(
                str(self.cluster), f"batches whose rows divide equally among {of} workers", found, remedy
            )

        def share(context: Any) -> Any:
            index = context.replica_id_in_sync_group
            mine = slice(index * rows[0] // of, (index + 1) * rows[0] // of) if rows else slice(0)
            cut = [tf.convert_to_tensor(array[mine] if array.ndim else array) for array in arrays]
            return tf.nest.pack_sequence_as(batch, cut)

        return self.strategy.experimental_distribute_values_from_function(share)

    def _local(self, value: Any) -> Any:
        return self.strategy.experimental_local_results(value)[0]


def _of_first(first: Array, others: Array, index: int) -> Array:
    return others if index else first


def _sentence(error: Exception) -> str:
    lines = [line.rpartition("}} ")[2] for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = next((place for place, line in enumerate(lines) if "aborted by" in line), 0)
    return " ".join(lines[reason : reason + 2] if lines[reason].endswith(":") else [lines[reason]])[:300]
