"""The ops in Triton, with the same schemas, for GPUs without the compiled CUDA library.

`OPS` in each module `fastops.triton.<op>` maps the names of its schemas to functions. The caller checks the arguments.
`import fastops` imports nothing of this package. If TRITON_INTERPRET=1 is set before triton is first imported, the
kernels also run on CPU tensors.
"""

try:
    import triton  # noqa: F401
except ImportError as error:
    raise ImportError("fastops.triton: the triton package must be installed (pip install triton)") from error
