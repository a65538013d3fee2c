"""The registry of this TensorFlow: ops, and the kernels that run them on a CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

from tasks.graphs import op_policy
from tasks.graphs.protos import NodeDef


@cache
def definition(op: str) -> Any:
    """Return the OpDef that TensorFlow registers under a name, or None."""
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(op)


@cache
def _kernels(op: str) -> list[Any]:
    from tensorflow.python.framework import kernels

    return list(kernels.get_registered_kernels_for_op(op).kernel)


def has_kernel(node: NodeDef) -> bool:
    """Return True if a CPU kernel takes the node's types; `DEFAULT` kernels run on every device.

    (tensorflow/core/framework/op_kernel.cc, FindKernelRegistration; kernel_def_util.cc, KernelAttrsMatch.)
    """
    op_def = definition(node.op)
    if op_def is None or node.op in op_policy.REWRITTEN:
        return True
    label = node.attr["_kernel"].s.decode(errors="replace") if "_kernel" in node.attr else ""
    defaults = {attribute.name: attribute.default_value for attribute in op_def.attr}

    def takes(kernel: Any) -> bool:
        for constraint in kernel.constraint:
            value = node.attr[constraint.name] if constraint.name in node.attr else defaults.get(constraint.name)
            given = [] if value is None else [value.type] if value.type else list(value.list.type)
            if any(dtype not in constraint.allowed_values.list.type for dtype in given):
                return False
        return bool(kernel.label == label)

    return any(kernel.device_type in ("CPU", "DEFAULT") and takes(kernel) for kernel in _kernels(node.op))


def elsewhere(op: str) -> str:
    """Describe the kernels that an op has on other devices."""
    devices = sorted({kernel.device_type for kernel in _kernels(op)})
    if "CPU" in devices or "DEFAULT" in devices:
        return "CPU kernels for other types only"
    return f"kernels for {', '.join(devices)} only" if devices else "no kernel at all"


def types_of(node: NodeDef) -> str:
    """Return a node's types, such as `T=int8`, for a message."""
    import tensorflow as tf

    given = sorted((name, value.type) for name, value in node.attr.items() if value.type)
    return ", ".join(f"{name}={tf.dtypes.as_dtype(number).name}" for name, number in given)


def version() -> str:
    """TensorFlow's version."""
    import tensorflow as tf

    return str(tf.__version__)
