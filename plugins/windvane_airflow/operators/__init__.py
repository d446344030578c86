"""One thin operator for each capability of `include/windvane`, in a file of the same name."""
