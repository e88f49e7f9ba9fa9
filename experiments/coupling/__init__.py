"""Experiments of coupling."""
