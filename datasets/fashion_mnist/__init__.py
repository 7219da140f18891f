"""fashion-mnist: images of clothes."""
