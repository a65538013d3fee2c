"""What a process took: time of a CPU, memory, and bytes that it read and wrote."""

from __future__ import annotations

from tasks.records.base import Record


class Cost(Record):
    """What one process took, with the processes that it started and waited for.

    `process` is the function that ran in it. `read` and `written` are bytes that passed through read and write calls,
    from a cache or from a disk (`rchar` and `wchar` of proc_pid_io(5)); what is mapped into memory does not count. `peak`
    is the largest resident memory in bytes, None where it is not known.
    """

    process: str
    cpu_seconds: float = 0.0
    peak: int | None = None
    read: int = 0
    written: int = 0
