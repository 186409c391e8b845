"""Training a pose network: the plan, the loss, the optimizer and the loop, without a cluster."""
