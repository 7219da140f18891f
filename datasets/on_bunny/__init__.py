"""digits-on-bunny and fields-on-bunny: signals on the Stanford bunny."""
