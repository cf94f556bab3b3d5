"""The XDP data plane: a program in the kernel, and the raw data plane behind it for what takes a closer look."""
