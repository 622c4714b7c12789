"""Engines against other libraries: one process a contender, turns in rounds, ratios, Dice beside speed."""
