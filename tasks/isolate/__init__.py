"""Calls into children of a fork server that has imported TensorFlow once.

`call` runs one function in a fresh process and returns its value; `start` leaves it running and returns a handle.
The calling process never imports TensorFlow. A function is named by module and qualified name, its arguments travel
to the child as a pickle, and the answer is JSON, validated against the function's return annotation: a child that has
loaded a user's model is not trusted with a pickle.
"""

from tasks.isolate.child import progress
from tasks.isolate.client import (
    Child,
    Limits,
    Progress,
    Settings,
    call,
    call_with,
    costs,
    limits,
    shutdown,
    start,
    warm,
)
from tasks.isolate.fork import forked
from tasks.isolate.machine import Memory, memory

__all__ = [
    "Child",
    "Limits",
    "Memory",
    "Progress",
    "Settings",
    "call",
    "call_with",
    "costs",
    "forked",
    "limits",
    "memory",
    "progress",
    "shutdown",
    "start",
    "warm",
]
