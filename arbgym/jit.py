"""How every kernel is compiled: IEEE float64 arithmetic, no exceptions, no reordering.

``error_model="numpy"`` makes a division by zero give inf or nan instead of raising, as on CUDA; ``fastmath`` stays
off, so the same inputs give the same bits whatever the batch size, the thread count or the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a scalar kernel with the project's one set of numerical rules; the type of ``function`` is kept.

    A kernel whose name starts with an underscore is called by other kernels only: it gets no wrapper for Python, which
    shortens the first compilation.
    """
    private = function.__name__.startswith("_")
    # not in Numba's type stubs: leave out the wrappers for C, and for private kernels those for Python
    options: dict[str, Any] = {"no_cfunc_wrapper": True, "no_cpython_wrapper": private}
    return cast(F, njit(error_model="numpy", nogil=True, **options)(function))


def part(function: F) -> F:
    """A kernel that is a part of the one kernel that calls it, split off for the reader only.

    It is inlined before compilation: Numba optimises everything below a function again at each level of calls, so a
    level less is seconds less at the first compilation.
    """
    return cast(F, njit(error_model="numpy", nogil=True, inline="always")(function))


def inner(function: F) -> F:
    """A kernel that other modules' kernels call and nobody else: no wrapper for Python, so it compiles sooner."""
    options: dict[str, Any] = {"no_cfunc_wrapper": True, "no_cpython_wrapper": True}
    return cast(F, njit(error_model="numpy", nogil=True, **options)(function))
