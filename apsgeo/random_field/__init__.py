"""A prior of one gappy field or a few, without a history: labels in, a `FieldPrior` out."""
