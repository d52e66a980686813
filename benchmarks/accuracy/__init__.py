"""How near every estimator comes to the known answers: `python -m benchmarks.accuracy`."""
