"""BPF: the header shared by all programs (`bpf.h`), and the loader (`libbpf`)."""
