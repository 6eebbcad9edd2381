"""Align a language model with your own people's judgement: SFT, a reward model from rankings, PPO, on one base."""

__version__ = "0.1.0"
