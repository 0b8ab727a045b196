"""Fonts, signs with their ink boxes, and the dataset made of them."""
