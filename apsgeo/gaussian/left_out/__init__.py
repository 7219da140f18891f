"""What a prior says of nodes and records that were left out."""
