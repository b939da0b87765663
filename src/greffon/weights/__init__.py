"""Weights, from what a user calls them to a filled backbone (`restore`).

What there is (`sets`), where it comes from (`fetch`), what a file holds (`read`), where that goes (`match`).
"""
