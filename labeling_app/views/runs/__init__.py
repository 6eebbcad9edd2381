"""The engineers' page: runs, their curves, samples and reports."""
