"""Experiments of schedules, batch sizes and accumulation."""
