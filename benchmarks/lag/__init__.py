"""Lag, from when a change was due to where it arrives, change by change and stage by stage."""
