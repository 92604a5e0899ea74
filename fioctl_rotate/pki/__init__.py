"""The Factory's keys and certificates: key stores, what a CSR may ask, signing."""
