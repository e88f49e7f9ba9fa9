"""Experiments of selection."""
