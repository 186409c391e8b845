"""What is done: one module a stage, and the plain functions that the stages are made of."""
