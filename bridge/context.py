"""Surroundings in which a call computes the same whatever its caller has set in torch, and modules without wrappers."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """A block, or a decorated function, with torch's defaults: float32, on the CPU unless asked, no gradients.

    Around it may be autocast, inference mode (whose tensors take part in nothing else), another default type or
    device, or a lower precision of matrix products.
    """
    dtype = torch.get_default_dtype()
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch's newer settings are in use, a backend each
        precision = "highest"
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, precision)
        yield


def unwrapped(module: Any) -> Any:
    """What is in a wrapper of torch's own, such as that of torch.compile or DataParallel; else `module` itself."""
    while isinstance(module, nn.Module) and type(module).__module__.startswith("torch."):
        inner = [part for name in ("_orig_mod", "module") if (part := module._modules.get(name)) is not None]
        if not inner:
            break
        module = inner[0]
    return module
