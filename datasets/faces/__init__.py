"""faces-orl and faces-cbcl: photographs of faces."""
