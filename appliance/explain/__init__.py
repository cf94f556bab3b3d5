"""What becomes of a packet, and why: asked of a running plane and of the model, or of the model alone."""
