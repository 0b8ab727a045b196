"""Sentences and pages made from the numbers."""
