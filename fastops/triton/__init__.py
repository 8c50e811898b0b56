"""Triton twins of the ops: the same schemas, for GPUs where the compiled CUDA library is absent.

Each module `fastops.triton.<op>` maps the names of its schemas to functions in `OPS`, which leave the checking of
arguments to the caller. Nothing here is imported by `import fastops`. With TRITON_INTERPRET=1 set before triton is
first imported, the kernels also run on CPU tensors.
"""

try:
    import triton  # noqa: F401
except ImportError as error:
    raise ImportError("fastops.triton: the triton package must be installed (pip install triton)") from error
