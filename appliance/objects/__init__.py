"""The objects of a configuration, one by one: what there is, in a canonical form, and changes of single ones. Pure."""
