"""Export to ExecuTorch."""
