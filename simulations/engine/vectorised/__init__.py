"""Many sites trained in one computation: their parameters stand side by side, and each step is taken for all of them.

``layers`` are the batched kernels, ``program`` puts a model together from them, ``functional`` does the same for any
model through ``torch.func``, ``lanes`` lines up the sites' examples, ``optimisers`` take the steps, and ``executor``
is what the simulator calls.
"""
