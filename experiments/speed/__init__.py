"""Speed of the library against its peers, one case per file. `python -m experiments speed [CASE]` runs them."""
