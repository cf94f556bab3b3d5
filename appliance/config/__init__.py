"""Configuration: TOML text in, a checked and resolved `appliance.model.Config` out, or every mistake at once."""
