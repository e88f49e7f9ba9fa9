"""Small networks and data that several experiments use."""
