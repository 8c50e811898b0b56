"""The ops: public functions, fake kernels, gradients."""

from fastops._ext import load_error, missing_message

if load_error is not None:
    raise ImportError(missing_message())
