"""navy-winds: monthly surface winds over the oceans and land."""
