"""Nano: the small models of the default experiment, trained by this project from rendered signs alone."""
