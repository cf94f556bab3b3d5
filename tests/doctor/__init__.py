"""The doctor, on a lab in which one thing after the other is broken."""
