"""Does CLAT gain anything over controls that are hard to beat? Regimes, their rows, and how they are judged."""
