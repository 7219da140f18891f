"""coads: climatology of marine observations, with the gaps it has."""
