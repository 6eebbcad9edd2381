"""The shared base: one quantized model, loaded once, with an adapter for every role."""
