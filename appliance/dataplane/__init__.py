"""Data planes: make packets follow forwarding tables. `drivers.py` is the table of what there is."""
