"""Experiments: one file per claim. `python -m experiments` lists them; what they share is in `common.py`."""
