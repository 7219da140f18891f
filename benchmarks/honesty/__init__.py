"""Error bars of the default path, on records that the house was not tuned on."""
