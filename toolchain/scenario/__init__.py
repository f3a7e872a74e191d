"""The scenario: exports, test configurations, points, curves, sweeps and test jobs."""
