"""What the demo and the lab's tests have in common: traffic, captures and the proofs made from them."""
