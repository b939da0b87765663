"""Searching over recipes within a time, and over learning rates; every trial on the same stored activations."""
