"""Figures: one module per figure, data in, a matplotlib Figure out."""
