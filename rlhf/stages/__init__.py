"""The stages, each in its own file: read one beside its paper; `pipeline` runs them on one base."""
