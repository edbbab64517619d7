"""Records of runs: kept, compared, drawn and tracked."""
