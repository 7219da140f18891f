"""Networks, written once over the layers that a domain lends."""
