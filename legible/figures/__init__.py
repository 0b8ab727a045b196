"""Figures: one function per figure, data in, a matplotlib Figure out. And the report that holds them."""
