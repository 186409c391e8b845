"""What the user runs: the command line, the configuration, the graph of stages and the cluster."""
