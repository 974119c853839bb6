"""Measurements against the peers, side by side. Nothing here is a test."""
