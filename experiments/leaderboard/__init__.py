"""The methods of a noun at equal compute, a task in each file: `python -m experiments leaderboard --task TASK`."""
