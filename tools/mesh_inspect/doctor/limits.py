"""May a worker on this host open as many files as it needs?"""

from __future__ import annotations

from mesh_inspect.doctor.faults import Area, Check, Fault


def judge(hard: int, needed: int) -> Check:
    """`hard` is the limit up to which a worker may raise its own; -1 means none."""
    if hard < 0:
        return Check(Area.LIMITS, "no limit")
    summary = f"up to {hard} here, a worker needs {needed}"
    if hard >= needed:
        return Check(Area.LIMITS, summary)
    what = f"a process may have {hard} file descriptors, and a worker needs {needed}"
    remedy = "raise the hard limit: `ulimit -Hn`, LimitNOFILE=, `docker run --ulimit nofile=65536`"
    return Check(Area.LIMITS, summary, (Fault(Area.LIMITS, "this host", what, remedy),))
