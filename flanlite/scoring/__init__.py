"""Benchmarks' scores: pure functions from questions and replies to numbers, with no model in sight."""
