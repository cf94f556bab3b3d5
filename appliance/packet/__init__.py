"""The readable packet path: what a director does with one frame. Pure; the oracle for every data plane."""
