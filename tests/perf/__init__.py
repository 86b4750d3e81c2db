"""Ratios between two ways of doing the same, in alternation: printed for people, asserted nowhere."""
