"""Experiments of mining."""
