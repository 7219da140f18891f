"""Protocol NCEP: all methods on the same months."""
