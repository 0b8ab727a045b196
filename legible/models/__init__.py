"""Models are opened here: the families behind one Protocol (family.py), and the critics that losses look with."""
