"""Problems whose posterior is known."""
