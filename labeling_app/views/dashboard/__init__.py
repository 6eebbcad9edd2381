"""The dashboard: how a campaign goes, and how far its labels can be trusted."""
