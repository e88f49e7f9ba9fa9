"""How large the batch is, and how the learning rate follows: schedules, scaling rules, and what they are fitted to."""
