"""Proximal policy optimisation on the shared base."""
