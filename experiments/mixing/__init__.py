"""Experiments of mixing."""
