"""Helpers of the tests: samples, servers, and processes to be killed."""
