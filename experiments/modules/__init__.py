"""Experiments of modules."""
