"""The forms of a model: how TensorFlow saves one, which forms a run writes, and how each is opened for a comparison."""

from __future__ import annotations

from enum import StrEnum


class Form(StrEnum):
    """How TensorFlow saved a model, as found in its files."""

    SAVER_V2 = "Saver checkpoint V2"
    SAVER_V1 = "Saver checkpoint V1"
    OBJECT_CHECKPOINT = "object-based checkpoint"
    META_GRAPH = "MetaGraphDef"
    GRAPH_DEF = "GraphDef"
    SAVED_MODEL = "SavedModel"
    KERAS = "Keras archive"
    HDF5 = "Keras HDF5"

    @property
    def of_saver(self) -> bool:
        """True for the checkpoints of tf.compat.v1.train.Saver: values by the names of a graph's variables."""
        return self in (Form.SAVER_V2, Form.SAVER_V1)

    @property
    def of_keras(self) -> bool:
        """True for the files that Keras writes."""
        return self in (Form.KERAS, Form.HDF5)

    @property
    def of_objects(self) -> bool:
        """True for forms that hold live objects or their values: they are opened as objects, not as graphs."""
        return self.of_keras or self is Form.OBJECT_CHECKPOINT


class Target(StrEnum):
    """A form that a run writes: the first two always, the others on request."""

    SAVED_MODEL = "saved_model"
    FROZEN = "frozen"
    SAVER_V2 = "saver_v2"
    SAVER_V1 = "saver_v1"
    KERAS = "keras"
    OBJECT_CHECKPOINT = "object_checkpoint"

    @property
    def of_objects(self) -> bool:
        """True for the forms that only live objects have."""
        return self in (Target.KERAS, Target.OBJECT_CHECKPOINT)


class CandidateForm(StrEnum):
    """A written form as it is opened for a comparison, in the order of the pipeline: the `candidate` of a parity row.

    The forms on request are opened in one way each, and go by their `Target`.
    """

    CHECKPOINT = "checkpoint"
    FROZEN_GRAPH = "frozen_graph"
    SAVED_MODEL_V1 = "saved_model (v1 loader)"
    SAVED_MODEL_V2 = "saved_model (v2 loader)"
    SAVED_MODEL_FILES = "saved_model (files)"
    SERVED_GRPC = "served (gRPC)"
    SERVED_REST = "served (REST)"
    SERVED_REST_ROWS = "served (REST, rows)"


LIVE_SESSION, LIVE_OBJECT = "live session", "live object"
"""What a baseline is of, where the model was trained here: a graph's session, or an object."""

FROZEN_GRAPH_FILE = "frozen_graph.pb"
FROZEN_NAMES_FILE = "signature.json"
KERAS_ARCHIVE = "model.keras"
