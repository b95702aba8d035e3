"""The self-test: every estimator beside the answer that it estimates."""
