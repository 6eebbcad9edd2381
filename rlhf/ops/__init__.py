"""Tensor maths as pure functions: tensors in, tensors out, nothing mutated, torch only."""
