"""Ours and its rivals under one budget: the same pairs, the same pictures, the same minutes. See `__main__`."""
